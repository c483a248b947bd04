"""Writes: read users, judge and fold here, commit there, begin again where others were faster."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias

from models.memory import StateSpec
from models.stores.batch import Batch
from models.stores.judging import judge
from models.stores.pending import MOST, add
from models.stores.protocol import Outcome
from models.stores.redis.layout import Keys, Stored
from models.stores.redis.reading import Held, Judged, Reading
from models.stores.redis.scripts import COMMIT, FORGET, RESERVE
from models.stores.redis.server import Command, Server, call, crowded

_ATTEMPTS = 200  # with pauses about ten seconds
_LONGEST_PAUSE_S = 0.1
DONE, _FENCE = b"done", b"fence"  # how the script answers, see `scripts.COMMIT`
_NAMES = (
    *("user", "state", "events", "places", "late", "graves"),
    *("stream", "users", "latecomers", "buried", "meta"),
)


@dataclass
class Change:
    """What is to become of one user, if the user is still as held."""

    held: Held
    user_id: str
    state: bytes | None = None
    """As `models.stores.pending` packs it; empty for none, None to leave it."""
    behind: bytes = b""
    """Instead: the state's new head, and the events to lay behind it."""
    watermark: int = 0
    events: Sequence[tuple[bytes, bytes, bytes]] = ()
    """As `Stored.records` gives them."""
    numbers: Sequence[int] = ()
    """Their sequence numbers; none: they are not in the stream."""
    late: Sequence[tuple[bytes, bytes]] = ()
    """Event key, JSON row."""
    graves: Mapping[bytes, int] = field(default_factory=dict)
    events_gone: Sequence[bytes] = ()
    places_gone: Sequence[bytes] = ()
    late_gone: Sequence[bytes] = ()
    graves_gone: Sequence[bytes] = ()

    def command(self, keys: Keys) -> Command:
        """The call of the script. Forgetting works in a full server too."""
        held, gone = self.held, (self.events_gone, self.places_gone, self.late_gone)
        numbers: Sequence[int | bytes] = self.numbers or [b""] * len(self.events)
        how = b"lay" if self.behind else b"keep" if self.state is None else b"put"
        return call(
            FORGET if any(gone) or self.graves else COMMIT,
            keys.of(held.user, *_NAMES),
            *(held.version, held.epoch, os.urandom(8)),
            *(held.user, self.user_id, how, self.behind or self.state or b""),
            *(self.watermark, min(self.numbers, default=b"")),
            *map(b"".join, gone),
            *_counted([(key,) for key in self.graves_gone]),
            *_counted([(*e, number) for e, number in zip(self.events, numbers, strict=True)]),
            *_counted(self.late),
            *_counted(list(self.graves.items())),
        )


def _counted(items: Sequence[Iterable[bytes | int]]) -> Iterator[bytes | int]:
    yield len(items)
    yield from chain.from_iterable(items)


_State: TypeAlias = tuple[bytes | None, bytes]
"""`state` and `behind` of a change."""


@dataclass
class _Verdict:
    """What is new of a user: rows of the batch."""

    held: Judged
    fresh: list[int]
    late: list[int]


class Writing:
    """Writes users, each in one atomic step."""

    def __init__(self, server: Server, keys: Keys, spec: StateSpec) -> None:
        self._server, self._keys, self._spec = server, keys, spec
        self._reading = Reading(server, keys, spec)

    def apply(self, batch: Batch, cutoff_ms: int) -> list[Outcome]:
        """Stores what is new in a batch; an unknown event before `cutoff_ms` is late."""
        outcomes = [Outcome.DUPLICATE] * len(batch)
        rows = Stored.pack(batch.interactions, batch.bodies).records(self._spec)
        pending, fence = batch.by_user(), 0
        for _ in attempts():
            verdicts = self._judge(batch, pending, cutoff_ms, outcomes)
            states = self._states(batch, verdicts)
            moved = [user for user in verdicts if user not in states]
            numbers = self._reserve([verdicts[user] for user in states], fence)
            changes = {
                user: Change(
                    verdict.held,
                    user,
                    *state,
                    watermark=max((batch.ts[row] for row in verdict.fresh), default=0),
                    events=[rows[row] for row in verdict.fresh],
                    numbers=[numbers[row] for row in verdict.fresh],
                    late=[(rows[row][0], batch.bodies[row]) for row in verdict.late],
                )
                for user, state in states.items()
                for verdict in [verdicts[user]]
            }
            replies = self.commit(list(changes.values()))
            moved += [user for user, reply in zip(changes, replies, strict=True) if reply != DONE]
            if not moved:
                return outcomes
            pending = {user: pending[user] for user in moved}
            fence = max([fence, *(int(r[len(_FENCE) :]) for r in replies if r.startswith(_FENCE))])
        raise crowded()

    def commit(self, changes: Sequence[Change]) -> list[bytes]:
        """Carries out changes of different users; `done` for those that were."""
        replies: list[bytes] = self._server.run([change.command(self._keys) for change in changes])
        return replies

    def _judge(
        self,
        batch: Batch,
        pending: Mapping[str, list[int]],
        cutoff_ms: int,
        out: list[Outcome],
    ) -> dict[str, _Verdict]:
        """Fills in the outcomes; gives the users with anything new."""
        wanted = {user: [batch.events[row] for row in rows] for user, rows in pending.items()}
        verdicts = {}
        for user, held in self._reading.judged(wanted).items():
            rows = pending[user]
            judged = judge(
                batch,
                rows,
                stored=held.known,
                graves=held.graves(user),
                cutoff_ms=max(cutoff_ms, held.floor),
            )
            for row, outcome in zip(rows, judged, strict=True):
                out[row] = outcome
            fresh = [row for row in rows if out[row] is Outcome.ACCEPTED]
            late = [row for row in rows if out[row] is Outcome.LATE]
            if fresh or late:
                verdicts[user] = _Verdict(held, fresh, late)
        return verdicts

    def _states(self, batch: Batch, verdicts: Mapping[str, _Verdict]) -> dict[str, _State]:
        """Each user's new `state` or `behind`; not of those whom others wrote since the judgement.

        Few states have to come here for it.
        """
        found: dict[str, _State] = {}
        due = []
        for user, verdict in verdicts.items():
            head, fresh = verdict.held.head, verdict.fresh
            if not fresh:
                found[user] = None, b""
            elif not head:
                found[user] = add(None, batch, fresh, self._spec), b""
            elif _fits(head, batch, fresh):
                found[user] = None, add(head, batch, fresh, self._spec)
            else:
                due.append(user)
        states = self._reading.packed([verdicts[user].held for user in due])
        for user, state in zip(due, states, strict=True):
            if state is not None:
                found[user] = add(state, batch, verdicts[user].fresh, self._spec), b""
        return found

    def _reserve(self, verdicts: Iterable[_Verdict], fence: int) -> dict[int, int]:
        """Sequence numbers beyond a fence for all new events, in the order of the rows."""
        rows = sorted(row for verdict in verdicts for row in verdict.fresh)
        if not rows:
            return {}
        first = self._server.one(*call(RESERVE, [self._keys.meta], len(rows), fence))
        return dict(zip(rows, range(first, first + len(rows)), strict=True))


def _fits(head: bytes, batch: Batch, rows: Sequence[int]) -> bool:
    """Whether events may be laid behind a state, so that its first two bytes are enough."""
    num = int.from_bytes(head, "little") + len(rows)
    return num <= MOST and not any(row in batch.facts for row in rows)


def attempts() -> Iterator[None]:
    """Goes on for a while: the more often others were faster, the longer the pause."""
    for attempt in range(_ATTEMPTS):
        if attempt:
            longest = min(0.001 * 2**attempt, _LONGEST_PAUSE_S)
            time.sleep(random.uniform(0, longest))
        yield
