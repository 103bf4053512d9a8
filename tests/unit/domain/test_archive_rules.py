"""Which objects a bucket's archive rules apply to, and which of several is the first to."""

from __future__ import annotations

import pytest

from cloudflux.domain.archive_rules import ArchiveRule, archived_by

ALL = ArchiveRule("all", 180)
LOGS = ArchiveRule("logs", 90, prefix="logs/")
TAGGED = ArchiveRule("tagged", 120, tags={"team": "red", "old": ""})
BOTH = ArchiveRule("both", 91, prefix="data/", tags={"team": "red"})


@pytest.mark.parametrize(
    ("key", "tags", "found"),
    [
        ("a", {}, ALL),
        ("logs/a", {}, LOGS),
        ("logs", {}, ALL),
        ("a", {"team": "red"}, ALL),
        ("a", {"team": "red", "old": "", "more": "1"}, TAGGED),
        ("data/a", {"team": "red", "old": ""}, BOTH),
        ("data/a", {"team": "blue"}, ALL),
    ],
)
def test_the_rule_that_archives_the_soonest_is_told(key: str, tags: dict[str, str], found: ArchiveRule) -> None:
    assert archived_by([ALL, LOGS, TAGGED, BOTH], key, tags) is found


def test_nothing_is_told_when_no_rule_applies() -> None:
    assert archived_by([], "a", {}) is None
    assert archived_by([LOGS, TAGGED], "a", {"team": "red"}) is None
