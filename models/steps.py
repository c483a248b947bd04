"""One step of training, taken by several workers at once as one worker would take it.

All workers know the units of the whole step and each computes its share of them. So that the step
is the same whoever shares it, nothing random depends on who draws it: what concerns the whole step
is drawn from a generator that all have alike, what concerns one request is a function of it.

B rows, W workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

Ints = NDArray[np.int64]
LEVELS, THINNING, WORDS = 1, 2, 3
"""What numbers of single requests are for; each purpose has its own."""
GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Step:
    """A place in a training: one step of one epoch of one stage, and a worker's part in it."""

    seed: int
    stage: int = 0
    epoch: int = 0
    number: int = 0
    rank: int = 0
    world: int = 1

    def mine(self, units: Ints) -> Ints:
        """This worker's share of the units of all."""
        return units[self.rank :: self.world]

    def generator(self) -> np.random.Generator:
        """For what concerns the whole step: every worker draws the same."""
        return np.random.default_rng([self.seed, self.stage, self.epoch, self.number])

    def uniforms(self, rows: Ints, width: int, *, purpose: int) -> NDArray[np.float64]:
        """`(B, width)` numbers in [0, 1) of requests `(B,)`.

        A row's numbers depend on the epoch and the row alone. SplitMix64 (Steele et al., OOPSLA
        2014), begun for each row at a hash of it.
        """
        given = [self.seed, self.stage, self.epoch, purpose]
        key = np.random.SeedSequence(given).generate_state(1, np.uint64)
        begin = _mixed(_mixed(rows.astype(np.uint64) * GOLDEN + key))
        bits = _mixed(begin[:, None] + GOLDEN * np.arange(1, width + 1, dtype=np.uint64))
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def seed_dropout(self) -> None:
        """Sets torch's generator for this step: each worker's own, for its requests are its own."""
        given = [self.seed, self.stage, self.epoch, self.number, 1 + self.rank]
        torch.manual_seed(int(np.random.SeedSequence(given).generate_state(1)[0]))


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number to another, every bit of which depends on all bits: a bijection."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


Sharing = Callable[[Tensor], Tensor]
"""What a loss makes of the numbers that its sums are divided by; it asks once, whatever they are.

Alone they stay as they are. Workers that share a step take the mean of theirs (`over_workers`):
then DDP's mean of gradients is the gradient of the mean over the whole step, however uneven its
parts are.
"""


def alone(values: Tensor) -> Tensor:
    """The same values."""
    return values


def over_workers(values: Tensor, world: int) -> Tensor:
    """The mean of the workers' values, the same on all of them."""
    if world == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / world
