"""The tasks of `collect_inventory` that have a say of their own."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from cloudflux.orchestration import inventory_tasks


def test_task_is_green_when_no_bucket_was_refused() -> None:
    inventory_tasks.name_refused_buckets({"objects": 5, "refused": []})


def test_task_fails_with_every_buckets_reason_when_some_were_refused(caplog: pytest.LogCaptureFixture) -> None:
    refused = ["there is no report of aws bucket 'new'", "azure bucket 'media': it is damaged"]
    with pytest.raises(
        AirflowFailException, match=r"but for 2 buckets, refused: .*'new'; azure bucket 'media'.*start a new run"
    ):
        inventory_tasks.name_refused_buckets({"objects": 5, "refused": refused})
    assert caplog.messages == refused  # a line for each in Airflow's page
