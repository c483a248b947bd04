"""Sequences of interactions as the user tower reads them, and the requests that read them.

A live request brings a sequence of its own (`of_users`). In training a row holds the windows of
several users side by side, each with many requests (`models.training.retriever_batch`).

N rows, L interactions in a row, M requests in a row, F numbers of the user level, X context fields.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.features import MAX_SESSION_RANK, UserSide


@dataclass(frozen=True)
class Memories:
    """N rows of interactions, and M requests in each."""

    item: Tensor
    """`(N, L)` places, oldest first."""
    action: Tensor
    """`(N, L)` action codes, 0 where there is no interaction."""
    at_days: Tensor
    """`(N, L)` when, by any clock that a row's requests share."""
    session: Tensor
    """`(N, L)` number of the session that it belongs to, growing with time."""
    owner: Tensor
    """`(N, L)` which of the row's windows it is of; -1 where there is no interaction."""
    now_days: Tensor
    """`(N, M)` by the clock of `at_days`."""
    current: Tensor
    """`(N, M)` number of the session that the request is in."""
    asker: Tensor
    """`(N, M)` the window that the request reads; -2 where there is no request."""
    last: Tensor
    """`(N, M)` column of the last interaction that the request sees; -1 for none."""
    levels: Tensor
    """`(N, M, 3)` bool: which of `models.features.LEVELS` may be read."""
    long: Tensor
    """`(N, M, F)` the user level, 0 where it may not be read."""
    context: Tensor
    """`(N, M, X)` hashed context values."""

    def to(self, device: torch.device) -> Memories:
        """All tensors on a device."""
        return Memories(**{name: value.to(device) for name, value in vars(self).items()})

    def visible(self) -> Tensor:
        """`(N, M, L)` bool: what each request sees, were all levels allowed."""
        before = torch.arange(self.item.shape[1], device=self.item.device) <= self.last[..., None]
        return before & (self.owner[:, None] == self.asker[..., None])

    def age_days(self) -> Tensor:
        """`(N, M, L)` float; never negative."""
        return (self.now_days[..., None] - self.at_days[:, None]).clamp(min=0).float()

    def ranks(self) -> Tensor:
        """`(N, M, L)` 0 in the session going on, 1 in the one before, up to the last rank."""
        return (self.current[..., None] - self.session[:, None]).clamp(0, MAX_SESSION_RANK)

    def gap_days(self) -> Tensor:
        """`(N, L)` float: since the interaction before in the window; 0 for its first."""
        gaps = torch.zeros_like(self.at_days)
        same = self.owner[:, 1:] == self.owner[:, :-1]
        gaps[:, 1:] = (self.at_days[:, 1:] - self.at_days[:, :-1]) * same
        return gaps.clamp(min=0).float()


def of_users(user: UserSide) -> Memories:
    """B rows with a request each."""
    present = user.action > 0
    none = torch.zeros(len(user), 1, dtype=torch.long, device=user.item.device)
    last = torch.where(present.any(1, keepdim=True), present.shape[1] - 1, none - 1)
    readable = [user.recent.any(1), user.sessions.any(1), user.long.any(1)]
    return Memories(
        item=user.item,
        action=user.action,
        at_days=-user.age_days,
        session=-user.session,
        owner=present.long() - 1,
        now_days=none.float(),
        current=none,
        asker=none,
        last=last,
        levels=torch.stack(readable, 1)[:, None],
        long=user.long[:, None],
        context=user.context[:, None],
    )
