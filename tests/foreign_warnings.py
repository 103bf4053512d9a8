"""Warnings that libraries give of themselves and of each other: in our own tests all others are errors."""

from __future__ import annotations

from typing import Final

import pytest

# Great Expectations 1.24 and duckdb-engine call what their own dependencies have deprecated.
GREAT_EXPECTATIONS: Final = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:duckdb-engine doesn't yet support reflection",
)
# Airflow 3.3, its providers and FastAPI's test client do so as well, when they are imported.
AIRFLOW: Final = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
MLFLOW: Final = pytest.mark.filterwarnings(
    # MLflow 3.17 compares a data frame's columns with a range, which pandas 3 deprecates
    "ignore:Operation with range is deprecated",
    # it warns of its own functions when they are imported
    "ignore:.*Any type hint is inferred as AnyType",
)
# A dialect that comes with Airflow's Google provider registers its own `unnest` when another test imports it; Alembic's
# comparison then meets that class.
UNNEST: Final = pytest.mark.filterwarnings("ignore:Class unnest will not make use of SQL compilation caching")
