from __future__ import annotations

import dataclasses
import logging
import threading
from datetime import UTC, datetime

import numpy as np
import pytest

from cloudflux.domain.policy import OwnerLimits, PolicySettings
from cloudflux.domain.usage import UsageChain
from cloudflux.lake.partitions import Lake
from cloudflux.price_books import load_book
from cloudflux.workflows.placement_files import KIND
from cloudflux.workflows.placements import Placements

AWS = load_book("aws-us-east-1")
CHAIN = UsageChain(
    unread=np.array([[0.0, 0.5, 0.0], [0.0, 0.0, 0.8], [0.0, 0.0, 0.99]]),
    read=np.array([[0.5, 0.0, 0.0], [0.2, 0.0, 0.0], [0.01, 0.0, 0.0]]),
    reads=np.array([2.0, 0.3, 0.01]),
    seen=np.array([10.0, 10.0, 10.0]),
)
FIGURES = (
    "size_edges_bytes", "clock_starts", "targets", "usd_gib", "usd_object", "keep_usd_gib", "keep_usd_object",
)  # fmt: skip


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path), 4)


def asked(placements, *, book=AWS, horizon_days=9, present=("STANDARD",), read_share=0.5, chain=CHAIN):
    settings = PolicySettings(horizon_days=horizon_days)
    return placements.usage(chain, book, OwnerLimits(), settings, present=present, read_share=read_share).tables


def files(lake):
    return sorted(lake._list(f"{lake._root}/_artefacts/{KIND}"))


def alike(first, second):
    assert first.class_names == second.class_names
    assert (first.horizon_days, first.by_client, first.read_share, first.deleted_share_year) == (
        second.horizon_days,
        second.by_client,
        second.read_share,
        second.deleted_share_year,
    )
    for name in FIGURES:
        mine, theirs = getattr(first, name), getattr(second, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


def test_tables_are_read_when_another_process_has_solved_them(lake):
    first, second = Placements(lake), Placements(lake)
    solved, read = asked(first), asked(second)
    assert (first.solved, first.read, second.solved, second.read) == (1, 0, 0, 1)
    alike(solved, read)
    asked(second)
    assert second.read == 1, "they are kept in memory too"


def test_same_bytes_are_written_when_the_same_tables_are_solved_again(lake, tmp_path):
    asked(Placements(lake))
    (name,) = files(lake)
    content = lake.artefact(KIND, name.rsplit("/", 1)[-1])
    other = Lake(str(tmp_path / "other"), 4)
    asked(Placements(other))
    assert other.artefact(KIND, name.rsplit("/", 1)[-1]) == content


@pytest.mark.parametrize(
    "other",
    [
        {"horizon_days": 10},
        {"read_share": 0.6},
        {"present": ("STANDARD", "GLACIER")},
        {"chain": dataclasses.replace(CHAIN, reads=np.array([2.0, 0.3, 0.02]))},
        {
            "book": dataclasses.replace(
                AWS, classes=(dataclasses.replace(AWS.classes[0], read_usd=1e-6), *AWS.classes[1:])
            )
        },
    ],
)
def test_tables_are_solved_anew_when_anything_they_hang_on_is_another(lake, other):
    asked(Placements(lake))
    placements = Placements(lake)
    asked(placements, **other)
    assert (placements.solved, placements.read) == (1, 0)
    assert len(files(lake)) == 2


def test_tables_are_solved_anew_when_another_release_solves_them(lake, monkeypatch):
    asked(Placements(lake))
    monkeypatch.setattr("cloudflux.workflows.placements.solver_digest", lambda: "another")
    placements = Placements(lake)
    asked(placements)
    assert placements.solved == 1


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped, lambda _: b"", lambda _: b"\x80\x04N."])
def test_tables_are_solved_again_and_replaced_when_their_file_is_damaged(lake, damage, caplog):
    good = asked(Placements(lake))
    name = files(lake)[0].rsplit("/", 1)[-1]
    content = lake.artefact(KIND, name)
    lake.keep_artefact(KIND, name, damage(content))
    placements = Placements(lake)
    with caplog.at_level(logging.WARNING):
        alike(asked(placements), good)
    assert placements.solved == 1
    assert name in caplog.text
    assert "solved again" in caplog.text
    assert lake.artefact(KIND, name) == content


def test_tables_are_not_believed_when_the_file_holds_those_of_another_key(lake, caplog):
    asked(Placements(lake))
    asked(Placements(lake), read_share=0.9)
    first, second = (path.rsplit("/", 1)[-1] for path in files(lake))
    lake.keep_artefact(KIND, first, lake.artefact(KIND, second))
    placements = Placements(lake)
    with caplog.at_level(logging.WARNING):
        asked(placements)
        asked(placements, read_share=0.9)
    assert (placements.solved, placements.read) == (1, 1)
    assert "another key" in caplog.text


def test_nothing_is_written_when_tables_are_only_looked_up(lake):
    placements = Placements(lake, keeps=False)
    asked(placements)
    assert placements.solved == 1
    assert files(lake) == []


def test_tables_are_solved_once_when_many_ask_at_the_same_time(lake):
    lock = threading.Lock()
    everybody = [Placements(lake, only_one=lambda _: lock) for _ in range(4)]
    threads = [threading.Thread(target=asked, args=(placements,)) for placements in everybody]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(placements.solved for placements in everybody) == 1


def test_old_tables_go_when_they_are_pruned(lake):
    asked(Placements(lake))
    assert lake.prune_artefacts(KIND, datetime(2000, 1, 1, tzinfo=UTC)) == []
    assert len(lake.prune_artefacts(KIND, datetime(2999, 1, 1, tzinfo=UTC))) == 1
    assert files(lake) == []
