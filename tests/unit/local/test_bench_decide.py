"""The benchmark scores by the use case that the task calls, and loads the model once in each worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloudflux.local.bench.decide import PARTS
from cloudflux.local.cli import main

OF_A_RUN = {
    "objects",
    "shards",
    "workers",
    "seconds",
    "objects_per_second",
    "bare_objects_per_second",
    "ratio_to_bare",
    "processor_ratio_to_bare",
    "parts",
    "read",
    "stage",
    "load",
    "models_loaded",
    "tables_solved",
    "peak_bytes",
    "moves",
    "from_rules",
}


def test_all_figures_are_written_when_few_objects_are_decided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "figures.json"
    asked = ["--objects", "2000", "--shards", "2", "--workers", "1", "--folder", str(tmp_path), "--json", str(target)]
    assert main(["bench", "decide", *asked]) == 0
    assert "ratio to the bare predict" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [target.name], "it leaves nothing behind"
    figures = json.loads(target.read_text())
    assert figures["rows"] > 2000
    for name, objects in (("tenth", 1000), ("all", 2000)):
        found = figures[name]
        assert found.keys() == OF_A_RUN
        assert found["parts"].keys() == set(PARTS)
        assert (found["objects"], found["models_loaded"], found["tables_solved"]) == (objects, 1, 1)
        assert found["from_rules"] == 0, "the model speaks for all"
        assert found["moves"] > 0
    assert figures["times_the_objects"] == 2.0
    assert figures["times_the_seconds"] > 0
