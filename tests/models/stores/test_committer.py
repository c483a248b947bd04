"""Group commit: who waits for whom, and whose error is whose."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pytest

from models.stores import Outcome, StoreFullError
from models.stores.committer import Apply, Committer
from tests.models.stores.world import numbered

ACCEPTED, DUPLICATE = Outcome.ACCEPTED, Outcome.DUPLICATE


class Log:
    """Keeps events in memory. Its first commit waits until `goes_on`; some users are refused."""

    def __init__(self, *refused: str) -> None:
        self.commits: list[list[str]] = []
        self.goes_on, self.has_begun = threading.Event(), threading.Event()
        self.refused = set(refused)

    def apply(self, table: pa.Table) -> list[Outcome]:
        self.has_begun.set()
        assert self.goes_on.wait(10)
        users = table["user_id"].to_pylist()
        if self.refused & set(users):
            raise StoreFullError("no room")
        known = {user for users in self.commits for user in users}
        self.commits.append(users)
        return [DUPLICATE if user in known else ACCEPTED for user in users]


def sent(*users: int) -> pa.Table:
    return numbered(users, num_users=1000)


def queued(
    log: Log, pool: ThreadPoolExecutor, *tables: pa.Table, apply: Apply | None = None
) -> list[Future[list[Outcome]]]:
    """The first commits while the others queue up behind it, in their order."""
    committer = Committer(apply or log.apply)
    running = [pool.submit(committer.commit, tables[0])]
    assert log.has_begun.wait(10)
    for number, one in enumerate(tables[1:], start=1):
        running.append(pool.submit(committer.commit, one))
        while committer.num_waiting < number:
            time.sleep(0.001)
    log.goes_on.set()
    return running


def test_calls_that_come_during_a_commit_share_the_next_one():
    log = Log()
    with ThreadPoolExecutor(4) as pool:
        running = queued(log, pool, sent(1), sent(2, 3), sent(3), sent(4, 2))
        outcomes = [one.result(10) for one in running]
    assert log.commits == [["u1"], ["u2", "u3", "u3", "u4", "u2"]]
    assert outcomes == [[ACCEPTED], [ACCEPTED] * 2, [ACCEPTED], [ACCEPTED] * 2]


def test_the_error_of_one_call_is_its_own():
    log = Log("u3")
    with ThreadPoolExecutor(4) as pool:
        running = queued(log, pool, sent(1), sent(2), sent(3), sent(4))
        with pytest.raises(StoreFullError, match="no room"):
            running.pop(2).result(10)
        assert [one.result(10) for one in running] == [[ACCEPTED]] * 3
    assert log.commits == [["u1"], ["u2"], ["u4"]]


def test_a_call_alone_fails_alone_and_the_next_one_works():
    log = Log("u1")
    log.goes_on.set()
    committer = Committer(log.apply)
    with pytest.raises(StoreFullError, match="no room"):
        committer.commit(sent(1))
    assert committer.commit(sent(2)) == [ACCEPTED]


def test_an_interrupted_leader_leaves_the_others_to_the_next_one():
    log, interrupts = Log(), [KeyboardInterrupt()]

    def interrupted(one: pa.Table) -> list[Outcome]:
        if len(one) == 2 and interrupts:
            raise interrupts.pop()
        return log.apply(one)

    with ThreadPoolExecutor(3) as pool:
        running = queued(log, pool, sent(1), sent(2), sent(3), apply=interrupted)
        assert running[0].result(10) == [ACCEPTED]
        errors = [one.exception(10) for one in running[1:]]
        # Whichever of the two led was interrupted; what became of its events it cannot know.
        assert [type(error) for error in errors if error] == [KeyboardInterrupt]
        left = errors.index(None)
        assert running[1 + left].result() == [ACCEPTED]
    assert log.commits == [["u1"], [f"u{2 + left}"]]
