"""The order of an epoch. An example is a pointer of eight bytes, so what is shuffled is pointers.

R units.
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


def blocks(units: Ints, *, seed: int, window: int = WINDOW, block: int = BLOCK) -> list[Ints]:
    """Units `(R,)`, which lie in the order of time, in blocks to be read one after another.

    More than a `window` of them are put into a random order once, so that each window of them is a
    sample of all times.
    """
    if len(units) > window:
        units = np.random.default_rng(seed).permutation(units)
    return [units[begin : begin + block] for begin in range(0, max(len(units), 1), block)]


def shuffled(
    given: Iterable[Ints], batch: int, generator: np.random.Generator, *, window: int = WINDOW
) -> Iterator[Ints]:
    """Batches of all units in blocks, each once, in an order drawn anew; the last may be short.

    The order of up to `window` units is any as likely as any other. Of more, the next `window` are
    read and shuffled when those before are used up.
    """
    held: list[Ints] = []
    for block in given:
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
