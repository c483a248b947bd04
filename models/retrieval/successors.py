"""What follows what: item-to-item memory, folded from histories without any training.

Two interactions of one user, d steps and g days apart, speak for the later item after the earlier
one by `fade^(d - 1) / (1 + g)^cooling`, and for the earlier one after the later by `back` times
that. What was said is divided by powers of how often each of the two occurs, as cosine similarity
does with powers of one half (Sarwar et al., 2001). A request sums what follows each of its
interactions, the newest one most.

The fold counts what training requests led to, so it would tell them their own outcome. It is for
requests after the fold alone: networks are trained without it, and it is added to their scores at
a weight that validation chooses (`models.blending`).

I places, B requests, L interactions, N events, Z pairs kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from models.config import DAY_MS, Config
from models.features import UserSide
from models.layers import positive

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SMALL = 1e-3
"""Interactions whose weight is below it are not read."""


class SuccessorConfig(Config):
    """How pairs are counted and read."""

    window: int = Field(20, ge=0)
    """Steps that two interactions may be apart; 0: nothing follows anything."""
    fade: float = Field(0.85, gt=0, le=1)
    """For every step between them."""
    cooling: float = Field(0.1, ge=0)
    """Power of the days between them."""
    back: float = Field(0.4, ge=0)
    """Worth of the earlier item after the later one."""
    from_power: float = Field(0.5, ge=0)
    to_power: float = Field(0.2, ge=0)
    """Of how often the read and the found item occur."""
    recency: float = Field(0.6, gt=0, le=1)
    """For every interaction after the one that is read."""
    ageing: float = Field(0.2, ge=0)
    """Power of the days between the one that is read and the newest."""
    keep: int = Field(300, gt=0)
    """Followers of an item, the strongest."""


@dataclass(frozen=True)
class Successors:
    """The followers of every item."""

    offsets: Tensor
    """`(I + 1,)` where those of each place begin."""
    items: Tensor
    """`(Z,)` places."""
    weights: Tensor
    """`(Z,)` scaled so that the strongest follower of an item has 1 on average."""
    config: SuccessorConfig

    @staticmethod
    def fold(
        owner: Ints, item: Ints, ts_ms: Ints, *, num_places: int, config: SuccessorConfig
    ) -> Successors:
        """From events `(N,)`, user after user and in the order of time.

        Args:
            owner: whose event it is.
            item: places, 0 for none: such events are passed over.
        """
        some = item > 0
        owner, item, days = owner[some], item[some], ts_ms[some] / DAY_MS
        pairs: Ints = np.zeros(0, np.int64)
        sums: Floats = np.zeros(0)
        for step in range(1, config.window + 1):
            same = (owner[step:] == owner[:-step]) & (item[step:] != item[:-step])
            before, after = item[:-step][same], item[step:][same]
            gap = (days[step:] - days[:-step])[same]
            worth = config.fade ** (step - 1) * (1 + gap) ** -config.cooling
            keys = [pairs, before * num_places + after, after * num_places + before]
            values = [sums, worth, config.back * worth]
            pairs, where = np.unique(np.concatenate(keys), return_inverse=True)
            sums = np.bincount(where, np.concatenate(values), len(pairs)).astype(np.float64)
        count = np.maximum(np.bincount(item, minlength=num_places), 1).astype(float)
        first, then = pairs // num_places, pairs % num_places
        sums = sums / (count[first] ** config.from_power * count[then] ** config.to_power)
        return Successors.of_pairs(first, then, sums, num_places=num_places, config=config)

    @staticmethod
    def of_pairs(
        first: Ints, then: Ints, weight: Floats, *, num_places: int, config: SuccessorConfig
    ) -> Successors:
        """From distinct pairs `(Z,)`; the strongest followers of each item are kept."""
        order = np.lexsort((then, -weight, first))
        first, then, weight = first[order], then[order], weight[order]
        begin = np.searchsorted(first, np.arange(num_places + 1))
        kept = (np.arange(len(first)) - begin[first] < config.keep) & (weight > 0)
        offsets = np.append(0, np.cumsum(np.bincount(first[kept], minlength=num_places)))
        tops = weight[kept & (np.arange(len(first)) == begin[first])]
        scale = tops.mean() if len(tops) else 1.0
        return Successors(
            offsets=torch.from_numpy(offsets),
            items=torch.from_numpy(then[kept]),
            weights=torch.from_numpy((weight[kept] / scale).astype(np.float32)),
            config=config,
        )

    def tensors(self) -> dict[str, Tensor]:
        """For a file."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    @property
    def num_places(self) -> int:
        """I."""
        return len(self.offsets) - 1

    def read(self, user: UserSide) -> Tensor:
        """`(B, I)` what follows the interactions of each user that speak for their item."""
        read = user.recent & positive(user) & (user.item > 0)
        later = read.flip(1).long().cumsum(1).flip(1) - 1
        newest = torch.where(read, user.age_days, torch.inf).amin(1, keepdim=True)
        aged = (1 + (user.age_days - newest).clamp(min=0)) ** -self.config.ageing
        weight = torch.where(read, self.config.recency ** later.float() * aged, 0.0)
        row, column = torch.nonzero(weight > SMALL, as_tuple=True)
        place = user.item[row, column]
        num = self.offsets[place + 1] - self.offsets[place]
        which = torch.repeat_interleave(torch.arange(len(place)), num)
        inside = torch.arange(len(which)) - torch.repeat_interleave(num.cumsum(0) - num, num)
        found = self.offsets[place][which] + inside
        worth = weight[row, column][which] * self.weights[found]
        total = torch.zeros(len(user), self.num_places)
        flat = row[which] * self.num_places + self.items[found]
        total.view(-1).index_add_(0, flat, worth)
        return total
