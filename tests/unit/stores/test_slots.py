"""Slots and locks that processes share through PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

import cloudflux
from cloudflux.domain.errors import TransientError
from cloudflux.stores import make_engine
from cloudflux.stores.slots import LockLost, RangeTaken, SlotsTaken, bucket_slot, only_one, range_lock

PATIENCE_S = 30


def eventually(try_it: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not try_it():
        assert time.monotonic() < deadline, "it did not come about in time"
        threading.Event().wait(0.02)


@contextmanager
def held_by_a_process(url: str, lock: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds a lock, given as Python, until it is told to end or is killed."""
    program = (
        "import sys\n"
        "from cloudflux.stores import make_engine\n"
        "from cloudflux.stores.slots import bucket_slot, only_one, range_lock\n"
        f"with {lock.replace('ENGINE', 'make_engine(sys.argv[1])')} as held:\n"
        "    print(held if isinstance(held, int) else 'held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(cloudflux.__file__).parents[1])},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def is_free(engine: Engine, plan_id: str, first: int) -> bool:
    try:
        with range_lock(engine, plan_id, first):
            return True
    except RangeTaken:
        return False


def slot_or_none(engine: Engine, bucket: str, slots: int) -> int | None:
    try:
        with bucket_slot(engine, bucket, slots) as slot:
            return slot
    except SlotsTaken:
        return None


def test_each_gets_a_slot_of_its_own_until_all_are_taken(engine: Engine) -> None:
    with ExitStack() as stack:
        # more than the engine's pool holds: a slot takes no connection away from the pool
        assert [stack.enter_context(bucket_slot(engine, "logs", 6)) for _ in range(6)] == list(range(6))
        with pytest.raises(SlotsTaken, match="all 6 slots for bucket 'logs' are taken"), bucket_slot(engine, "logs", 6):
            pass
        assert slot_or_none(engine, "other", 6) == 0
    assert slot_or_none(engine, "logs", 6) == 0


def test_a_slot_is_free_again_when_its_work_failed(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), bucket_slot(engine, "logs", 1):
        raise ZeroDivisionError
    assert slot_or_none(engine, "logs", 1) == 0


def test_taken_slots_are_worth_another_try(engine: Engine) -> None:
    assert issubclass(SlotsTaken, TransientError)
    assert issubclass(RangeTaken, TransientError)


def test_a_slot_between_two_is_used_again_when_it_is_free(engine: Engine) -> None:
    with bucket_slot(engine, "logs", 3) as first:
        second_one = bucket_slot(engine, "logs", 3)
        second = second_one.__enter__()
        with bucket_slot(engine, "logs", 3) as third:
            second_one.__exit__(None, None, None)
            with bucket_slot(engine, "logs", 3) as again:
                assert (first, second, third, again) == (0, 1, 2, 1)


def test_a_bucket_without_slots_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="at least one slot"), bucket_slot(engine, "logs", 0):
        pass


def test_many_threads_never_share_a_slot(engine: Engine) -> None:
    holders: dict[int, int] = {}
    worst = [0]
    guard = threading.Lock()
    got: list[int] = []

    def work() -> None:
        for _ in range(20):
            try:
                with bucket_slot(engine, "logs", 3) as slot:
                    with guard:
                        holders[slot] = holders.get(slot, 0) + 1
                        worst[0] = max(worst[0], holders[slot])
                        got.append(slot)
                    with guard:
                        holders[slot] -= 1
            except SlotsTaken:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert worst == [1]
    assert len(got) >= 20


def test_the_same_moves_are_carried_out_by_one_only(engine: Engine) -> None:
    with range_lock(engine, "plan-1", 1000) as held:
        with (
            pytest.raises(RangeTaken, match="moves of plan 'plan-1' from number 1000 on"),
            range_lock(engine, "plan-1", 1000),
        ):
            pass
        assert is_free(engine, "plan-1", 2000)
        assert is_free(engine, "plan-2", 1000)
        # the number and the plan's name are kept apart
        assert is_free(engine, "1000", 1)
        held.raise_if_lost()
    assert is_free(engine, "plan-1", 1000)


@pytest.mark.parametrize("ended_by", ["kill -9", "its own end"])
def test_a_slot_is_free_when_the_process_that_held_it_is_gone(engine: Engine, database_url: str, ended_by: str) -> None:
    with held_by_a_process(database_url, "bucket_slot(ENGINE, 'logs', 1)") as process:
        assert first_line(process) == "0"
        assert slot_or_none(engine, "logs", 1) is None
        if ended_by == "kill -9":
            os.kill(process.pid, signal.SIGKILL)
        else:
            assert process.stdin is not None
            process.stdin.close()
        process.wait(timeout=PATIENCE_S)
        eventually(lambda: slot_or_none(engine, "logs", 1) == 0)


def test_moves_are_free_when_the_process_that_held_them_is_killed(engine: Engine, database_url: str) -> None:
    with held_by_a_process(database_url, "range_lock(ENGINE, 'plan', 0)") as process:
        assert first_line(process) == "held"
        assert not is_free(engine, "plan", 0)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=PATIENCE_S)
        eventually(lambda: is_free(engine, "plan", 0))


def test_a_stopped_process_keeps_what_it_holds(engine: Engine, database_url: str) -> None:
    # a zombie that wakes up must not find its moves carried out by another meanwhile
    with held_by_a_process(database_url, "range_lock(ENGINE, 'plan', 0)") as process:
        assert first_line(process) == "held"
        os.kill(process.pid, signal.SIGSTOP)
        assert not is_free(engine, "plan", 0)


def test_a_holder_learns_that_its_lock_is_lost_when_the_server_ends_its_connection(engine: Engine) -> None:
    other = make_engine(engine.url.render_as_string(hide_password=False))
    with range_lock(engine, "plan", 0) as held:
        with other.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' "
                    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
            )
        with pytest.raises(LockLost, match="moves of plan 'plan'"):
            held.raise_if_lost()
        assert is_free(other, "plan", 0)
    # leaving the block with a broken connection hides nothing and raises nothing
    assert is_free(engine, "plan", 0)
    other.dispose()


def test_no_transaction_stays_open_while_a_lock_is_held(engine: Engine) -> None:
    with range_lock(engine, "plan", 0), engine.connect() as connection:
        states = connection.execute(
            text(
                "SELECT a.state FROM pg_stat_activity a JOIN pg_locks l USING (pid) WHERE l.locktype = 'advisory' "
                "AND a.datname = current_database()"
            )
        )
        assert states.scalars().all() == ["idle"]


def test_second_process_waits_when_the_first_makes_the_same(engine: Engine) -> None:
    order: list[str] = []

    def second() -> None:
        with only_one(engine, "placements/a"):
            order.append("second")

    with only_one(engine, "placements/a"):
        waiting = threading.Thread(target=second)
        waiting.start()
        with only_one(engine, "placements/b"):
            order.append("another")
        eventually(lambda: _waits(engine))
        order.append("first")
    waiting.join(PATIENCE_S)
    assert order == ["another", "first", "second"]


def test_next_process_goes_on_when_the_first_is_killed_at_it(database_url: str, engine: Engine) -> None:
    with held_by_a_process(database_url, "only_one(ENGINE, 'placements/a')") as process:
        assert first_line(process) == "held"
        process.send_signal(signal.SIGKILL)
        with only_one(engine, "placements/a"):
            pass


def _waits(engine: Engine) -> bool:
    with engine.connect() as connection:
        return bool(
            connection.execute(
                text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            ).scalar()
        )
