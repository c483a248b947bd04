"""Threads: windows of users' histories, each with the requests that are asked within it.

A sequence encoder reads a window once, and every request of it looks at the hidden state of the
last interaction that it could see: a user with a thousand requests costs a few passes, not a
thousand.

T threads, R requests, N tokens (interactions read) of all threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.config import DAY_MS
from models.events import Interactions
from models.examples import Examples, Ints, Requests, spread
from models.features import LEVELS
from models.memory import Histories, StateSpec, sessions
from models.retrieval.memories import Memories


@dataclass(frozen=True)
class Threads:
    """T windows. Every request lies in exactly one."""

    tokens: Ints
    """`(N,)` rows of the interactions, thread after thread, oldest first."""
    token_offsets: Ints
    """`(T + 1,)`."""
    requests: Ints
    """`(R,)` rows of the requests, thread after thread."""
    seen: Ints
    """`(R,)` how many of its thread's tokens each request sees."""
    request_offsets: Ints
    """`(T + 1,)`."""

    def __len__(self) -> int:
        return len(self.token_offsets) - 1

    def tokens_of(self, threads: Ints) -> tuple[Ints, Ints]:
        """The tokens of some threads: number in `threads`, row of the interactions."""
        which, _, place = spread(self.token_offsets, threads)
        return which, self.tokens[place]

    def requests_of(self, threads: Ints) -> tuple[Ints, Ints, Ints]:
        """The requests of some threads: number in `threads`, row, how many tokens it sees."""
        which, _, place = spread(self.request_offsets, threads)
        return which, self.requests[place], self.seen[place]


def threads_of(
    requests: Requests, rows: Ints, *, histories: Histories, spec: StateSpec, length: int
) -> Threads:
    """The threads of request rows `(R,)`.

    A window has at most `length` tokens. Of a longer history every request sees at least half as
    many, and all that it sees is what its ring would hold. A request whose user has events that
    arrived out of order gets a window of its own: the order in which its ring was read is nobody
    else's.

    Args:
        length: at most the ring's capacity.
    """
    length = min(length, spec.ring)
    rows = rows[np.lexsort((requests.as_of_ms[rows], requests.user[rows]))]
    users, now = requests.user[rows], requests.as_of_ms[rows]
    known = users >= 0
    alone = ~known
    alone[known] = histories.late[users[known]]
    in_ring = histories.in_ring(spec)
    first, num = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    easy = np.flatnonzero(~alone)
    low = histories.offsets[users[easy]]
    high = low + histories.num_arrived(users[easy], now[easy])
    first[easy] = np.searchsorted(in_ring, low)
    num[easy] = np.searchsorted(in_ring, high) - first[easy]
    stride = max(length // 2, 1)
    window = np.maximum(-(-(num - length) // stride), 0)
    begin = first + window * stride
    seen = num - window * stride
    source = [in_ring]
    hard = np.flatnonzero(alone)
    if len(hard):
        rings = histories.ring_rows(users[hard], now[hard], spec, length)
        seen[hard] = (rings >= 0).sum(1)
        begin[hard] = len(in_ring) + np.cumsum(seen[hard]) - seen[hard]
        source.append(rings[rings >= 0])
    # Requests of one user come one after another, and so do those of one window.
    new = np.ones(len(rows), bool)
    new[1:] = (users[1:] != users[:-1]) | (window[1:] != window[:-1]) | alone[1:] | alone[:-1]
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(rows))
    lengths = np.maximum.reduceat(seen, starts) if len(rows) else np.zeros(0, np.int64)
    order = np.argsort(requests.as_of_ms[rows[starts]], kind="stable")
    offsets = np.append(0, np.cumsum(lengths[order]))
    which, inside, _ = spread(offsets, np.arange(len(order)))
    request_offsets = np.append(0, np.cumsum((ends - starts)[order]))
    _, number, _ = spread(request_offsets, np.arange(len(order)))
    at = np.repeat(starts[order], (ends - starts)[order]) + number
    return Threads(
        tokens=np.concatenate(source)[begin[starts[order]][which] + inside],
        token_offsets=offsets,
        requests=rows[at],
        seen=seen[at],
        request_offsets=request_offsets,
    )


def packed(lengths: Ints, heights: Ints, *, length: int, height: int) -> tuple[Ints, Ints, Ints]:
    """Threads `(B,)` laid into rows, so that little is padding: first fit, longest first.

    Args:
        lengths: `(B,)` tokens of each.
        heights: `(B,)` requests of each.
        length: tokens that a row has room for; one that is longer gets a row of its own.
        height: likewise of requests.

    Returns:
        row of each thread, and the first of its tokens and of its requests there; `(B,)` each.
    """
    row, token, request = (np.zeros(len(lengths), np.int64) for _ in range(3))
    used = np.zeros((len(lengths), 2), np.int64)
    limit = np.asarray([length, height])
    num = 0
    for thread in np.lexsort((-heights, -lengths)):
        size = np.asarray([lengths[thread], heights[thread]])
        fits = np.flatnonzero((used[:num] + size <= limit).all(1))
        place = int(fits[0]) if len(fits) else num
        num = max(num, place + 1)
        row[thread], (token[thread], request[thread]) = place, used[place]
        used[place] += size
    return row, token, request


def memories_of(
    examples: Examples, threads: Threads, chosen: Ints, keep: Tensor
) -> tuple[Memories, Tensor]:
    """The memories of some threads, packed into rows, and the cell of each of their R requests.

    Args:
        chosen: `(B,)` numbers of threads.
        keep: `(R, 3)` bool: the levels that each request keeps, in the order of
            `Threads.requests_of`.
    """
    owner, interactions = threads.tokens_of(chosen)
    asker, rows, seen = threads.requests_of(chosen)
    lengths, heights = (np.bincount(of, minlength=len(chosen)) for of in (owner, asker))
    limit = max(examples.features.history, 1)
    row, token, request = packed(lengths, heights, length=limit, height=limit)
    num = int(row.max(initial=-1)) + 1
    width = int((token + lengths).max(initial=0)) or 1
    height = int((request + heights).max(initial=0)) or 1
    at = row[owner] * width + token[owner] + _inside(lengths)
    cell = row[asker] * height + request[asker] + _inside(heights)

    def laid(size: int, where: Ints, values: NDArray[Any], nothing: float = 0) -> Tensor:
        full = np.full((num * size, *values.shape[1:]), nothing, values.dtype)
        full[where] = values
        return torch.from_numpy(full.reshape(num, size, *values.shape[1:]))

    records, requests = examples.histories.interactions[interactions], examples.requests
    session, current = _sessions(examples, records, owner, rows, asker, seen, lengths)
    now = requests.as_of_ms[rows] / DAY_MS
    allowed = np.asarray([level in examples.features.levels for level in LEVELS])
    levels = keep.numpy() & allowed
    memories = Memories(
        item=laid(width, at, examples.places[interactions]),
        action=laid(width, at, records["action"].astype(np.int64)),
        at_days=laid(width, at, records["ts"] / DAY_MS),
        session=laid(width, at, session),
        owner=laid(width, at, owner, -1),
        now_days=laid(height, cell, now),
        current=laid(height, cell, current),
        asker=laid(height, cell, asker, -2),
        last=laid(height, cell, np.where(seen > 0, token[asker] + seen - 1, -1), -1),
        levels=laid(height, cell, levels),
        long=laid(height, cell, requests.long[rows] * levels[:, 2:]),
        context=laid(height, cell, requests.context[rows]),
    )
    return memories, torch.from_numpy(cell)


def _inside(lengths: Ints) -> Ints:
    """`0 .. n - 1` for each length, one after another."""
    first = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(first, lengths)


def _sessions(
    examples: Examples,
    records: Interactions,
    owner: Ints,
    rows: Ints,
    asker: Ints,
    seen: Ints,
    lengths: Ints,
) -> tuple[Ints, Ints]:
    """The number of every token's session, and of the one that each request is in."""
    gap = examples.memory.view.session_gap
    begun = sessions.starts(records, gap)
    begun[1:] |= owner[1:] != owner[:-1]
    number: Ints = np.cumsum(begun, dtype=np.int64)
    first = np.cumsum(lengths) - lengths
    some = seen > 0
    newest = (first[asker] + seen - 1)[some]
    current = np.zeros(len(rows), np.int64)
    going_on = sessions.is_current(
        records[newest][:, None],
        now_ms=examples.requests.as_of_ms[rows[some]],
        session=examples.requests.session[rows[some]],
        gap_ms=gap,
    )
    current[some] = number[newest] + ~going_on
    return number, current
