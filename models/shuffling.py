"""The order of an epoch. An example is a pointer of eight bytes, so what is shuffled is pointers.

R requests, W workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
WINDOW = 1 << 20
"""Pointers that are shuffled together: 8 MB, and as much for their order."""
BLOCK = 1 << 20
"""Pointers that travel together."""


def shares(
    rows: Ints, num_workers: int, *, seed: int, window: int = WINDOW, block: int = BLOCK
) -> list[Ints]:
    """Rows `(R,)` in blocks for `num_workers`, who take them in turns.

    Every worker gets equally many, at most W - 1 rows are left out, and every share is spread over
    all of the rows, which lie in the order of time. Shares of more than a `window` are put into a
    random order once, so that each window of them is a sample of all times.
    """
    each = len(rows) // num_workers
    if each > window:
        rows = np.random.default_rng(seed).permutation(rows)
    columns = rows[: each * num_workers].reshape(each, num_workers).T
    begins = range(0, max(each, 1), block)
    return [column[begin : begin + block] for begin in begins for column in columns]


def shuffled(
    blocks: Iterable[Ints], batch: int, generator: np.random.Generator, *, window: int = WINDOW
) -> Iterator[Ints]:
    """Batches of all rows in blocks, each once, in an order drawn anew; the last may be short.

    The order of up to `window` rows is any as likely as any other. Of more, the next `window` are
    read and shuffled when those before are used up.
    """
    held: list[Ints] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= window:
            *full, rest = _batches(held, batch, generator)
            yield from full
            held = [rest]
    if sum(map(len, held)):
        yield from _batches(held, batch, generator)


def _batches(held: list[Ints], batch: int, generator: np.random.Generator) -> Iterator[Ints]:
    rows = np.concatenate(held)
    rows = rows[generator.permutation(len(rows))]
    return (rows[begin : begin + batch] for begin in range(0, len(rows), batch))
