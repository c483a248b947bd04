"""Exact reads of the ring for each candidate: what was done with it and its category, and when.

The newest interactions are read at several half-lives, and the whole ring, which may reach back for
years, once more without haste: that is the lifelong read. It is conditioned on the candidate, costs
the same for every history, and needs nothing but the state that a request reads anyway.

Interactions are summed by key once for each user and looked up by candidate, so that the cost grows
with interactions plus candidates, not with their product. B requests, C candidates, L newest
interactions, R of the ring, W half-lives, F numbers of an interaction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.config import DAY_MS, format_duration
from models.events import POLARITY
from models.features import UserSide


def match_names(half_lives: Sequence[int]) -> list[str]:
    """The gate of each number of `match`: its timescale, or the level of memory that it reads."""
    halves = [f"match_{format_duration(half_life)}" for half_life in half_lives]
    recent = ["interaction", "interaction", "session_now", "session_last"]
    return [*halves * 3, *recent, *["lifelong"] * 4]


def match(
    user: UserSide, candidates: Tensor, *, categories: Tensor, half_lives: Sequence[int]
) -> Tensor:
    """`(B, C, 3W + 8)`: decayed counts of the candidate and its category, and when it was last.

    Counts are of what was done for the very item, against it, and for its first category. Then:
    how recent the last deed for it is (1 now, 0 never), whether there was any, whether in the
    session going on and in the one before. At last the lifelong counts: of the item and of its
    category, without decay and at the longest half-life.

    Args:
        candidates: `(B, C)` places; 0 matches nothing.
        categories: `(I, K)` of every place; with K = 0 there is no kin.
    """
    sign = torch.from_numpy(POLARITY).to(user.action.device)[user.action]
    spoken = sign > 0
    liked, before = user.recent & spoken, user.sessions & spoken
    rates = user.age_days.new_tensor([-DAY_MS / half_life for half_life in half_lives])
    fade = torch.exp2(user.age_days[..., None] * rates)
    for_it, against = fade * liked[..., None], fade * (user.recent & (sign < 0))[..., None]
    deeds = torch.stack([liked, before & (user.session == 0), before & (user.session == 1)], 2)
    last = 1 / (1 + torch.log1p(user.age_days)) * liked
    added = torch.cat([for_it, against, deeds.to(fade.dtype)], 2)
    own, kin = _by_item_and_kind(user.item, candidates, categories, added, last)
    width = len(half_lives)
    faded = torch.log1p(torch.cat([own[..., : 2 * width], kin[..., :width]], 2))
    ever = (own[..., 2 * width : -1] > 0).to(faded.dtype)
    life = lifelong(user, candidates, categories=categories, half_life=max(half_lives))
    return torch.cat([faded, own[..., -1:], ever, life], 2)


def lifelong(user: UserSide, candidates: Tensor, *, categories: Tensor, half_life: int) -> Tensor:
    """`(B, C, 4)`: counts over the whole ring, of the item and of its category."""
    fade = torch.exp2(user.life_days * (-DAY_MS / half_life))
    added = torch.stack([torch.ones_like(fade), fade], 2)
    parts = _by_item_and_kind(user.life_item, candidates, categories, added)
    return torch.log1p(torch.cat(parts, 2))


def _by_item_and_kind(
    items: Tensor,
    candidates: Tensor,
    categories: Tensor,
    added: Tensor,
    highest: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`by_key` of the items `(B, L)`, and of their first categories; zero without any."""
    if not categories.shape[1]:
        own = by_key(items, candidates, added, highest)
        return own, torch.zeros_like(own)
    first = categories[:, 0]
    # Both at once: for one user and few interactions a call costs more than what it does.
    own, kin = by_key(
        torch.cat([items, first[items]]),
        torch.cat([candidates, first[candidates]]),
        torch.cat([added, added]),
        None if highest is None else torch.cat([highest, highest]),
    ).chunk(2)
    return own, kin


def by_key(keys: Tensor, asked: Tensor, added: Tensor, highest: Tensor | None = None) -> Tensor:
    """`(B, C, F)` sums over the interactions that have the key asked for, and their highest.

    Args:
        keys: `(B, L)` of the interactions, `asked` `(B, C)` of the candidates; 0 has nothing.
        added: `(B, L, F)` to be summed.
        highest: `(B, L)`, not below 0, of which the highest is taken: then F + 1 are returned.
    """
    ordered = keys.sort(1).values
    # Those of one key share a slot: the place of the first of them in order.
    slot = torch.searchsorted(ordered, keys.contiguous())
    place = torch.searchsorted(ordered, asked.contiguous()).clamp(max=keys.shape[1] - 1)
    known = (ordered.gather(1, place) == asked) & (asked > 0)
    sums = torch.zeros_like(added).scatter_add_(1, slot[..., None].expand_as(added), added)
    if highest is not None:
        tops = torch.zeros_like(highest).scatter_reduce_(1, slot, highest, "amax")
        sums = torch.cat([sums, tops[..., None]], 2)
    rows = torch.arange(len(keys), device=keys.device)[:, None]
    return sums[rows, place] * known[..., None]
