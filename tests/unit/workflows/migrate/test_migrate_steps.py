"""A range of moves in steps: one writes to the ledger while another asks the provider."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import time, timedelta

import pytest
from unit.workflows.migrate.world import AT, TO_CLASS, Scripted, Watching, World

from cloudflux.domain.errors import TransientError
from cloudflux.domain.ledger import LedgerEntry
from cloudflux.domain.migrations import (
    TierChange,
    TierChangeResult,
)
from cloudflux.domain.objects import ObjectRef, ObjectState, Unseen
from cloudflux.domain.quiet_hours import QuietHours
from cloudflux.workflows import migrate
from cloudflux.workflows.garbage_collection import OBJECTS_BETWEEN


def test_all_is_done_and_calls_take_turns_when_a_range_has_many_steps(world: World) -> None:
    client = Watching(world)
    assert world.mover(client, step_moves=2).carry_out("plan", 0, 4) == migrate.RangeProgress({"done": 5}, 0, 0, None)
    assert (client.calls, client.most_at_once) == (9, 1)
    assert world.close() == {"done": 5}
    assert world.classes() == {TO_CLASS[world.provider]: 5}


def test_the_next_step_asks_the_provider_when_one_writes_to_the_ledger(world: World) -> None:
    asked_again, waits, first = threading.Event(), [], iter([True])
    client = Watching(world, lambda calls: asked_again.set() if calls == 2 else None)
    append = world.ledger.append

    def slow(entries: Sequence[LedgerEntry]) -> int:
        if next(first, False):
            waits.append(asked_again.wait(10))
        return append(entries)

    world.ledger.append = slow  # type: ignore[method-assign]  # of this world alone
    assert world.mover(client, step_moves=3).carry_out("plan", 0, 4).ended == {"done": 5}
    assert waits == [True]


def test_two_steps_ask_at_once_when_the_client_allows_it(world: World) -> None:
    both = threading.Barrier(2, timeout=10)

    class Together(Scripted):
        def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
            both.wait()  # breaks, and fails the test, when the other step has to wait for its turn
            return super().change_tiers(changes)

    mover = world.mover(Together(world), step_moves=1, steps_together=True)
    assert mover.carry_out("plan", 0, 3).ended == {"done": 4}


def test_no_other_step_changes_anything_when_the_provider_refuses_everything(world: World) -> None:
    def refuse(calls: int) -> None:
        raise TransientError("nobody is served")

    client = Watching(world, refuse)
    with pytest.raises(TransientError, match="nobody is served"):
        world.mover(client, step_moves=1).carry_out("plan", 0, 4)
    assert client.calls == 1
    assert world.ledger.entries == []


def test_no_other_step_begins_when_the_ledger_cannot_be_written(world: World) -> None:
    world.ledger.fail_after = 0
    with pytest.raises(TransientError, match="the database went away"):
        world.mover(step_moves=1).carry_out("plan", 0, 4)
    assert TO_CLASS[world.provider] not in world.classes()
    world.ledger.fail_after = None
    assert world.mover(step_moves=1).carry_out("plan", 0, 4).ended == {"done": 5}


def test_steps_that_have_begun_are_finished_when_quiet_hours_begin(world: World) -> None:
    world.plans.plan = replace(
        world.plans.plan,
        guardrails=replace(world.plans.plan.guardrails, quiet_hours=QuietHours(time(1), time(2), "UTC")),
    )
    begins, ends = AT + timedelta(hours=1), AT + timedelta(hours=2)

    def later(calls: int) -> None:
        if calls == 2:
            world.now = begins

    progress = world.mover(Watching(world, later), step_moves=1).carry_out("plan", 0, 4)
    done = progress.ended["done"]
    assert 1 <= done <= 2, "only what had begun: as many steps as there are at once"
    assert (progress.quiet_until, world.classes()[TO_CLASS[world.provider]]) == (ends, done)
    world.now = ends
    assert world.mover(step_moves=1).carry_out("plan", 0, 4).ended == {"done": 5 - done}


def test_one_call_submits_and_verifies_when_a_range_is_carried_out(world: World) -> None:
    progress = world.mover().carry_out("plan", 0, 4)
    assert progress == migrate.RangeProgress({"done": 5}, 0, 0, None)
    assert world.close() == {"done": 5}


def test_garbage_is_collected_seldom_while_moves_are_under_way(world: World) -> None:
    seen = []

    class Watching:
        capabilities = world.client.capabilities

        def head_many(self, refs: Sequence[ObjectRef]) -> list[ObjectState | Unseen | None]:
            seen.append(gc.get_threshold()[0])
            return world.client.head_many(refs)

        def change_tiers(self, changes: Sequence[TierChange]) -> list[TierChangeResult]:
            return world.client.change_tiers(changes)

    before = gc.get_threshold()
    assert world.mover(Watching()).carry_out("plan", 0, 4).ended == {"done": 5}
    assert min(seen) >= OBJECTS_BETWEEN
    assert gc.get_threshold() == before
