"""The ranker's loss over the candidates of each request. B requests, C candidates, O outcome heads.

A head is judged on what is known of it: `models.requests` leaves out requests whose outcomes have
not had their time (`requests.outcome_window`, one for all heads), so that nothing here is negative
only because it is too early to tell.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.steps import Sharing, alone


def ranking_loss(
    logits: Tensor,
    labels: Tensor,
    real: Tensor,
    *,
    kept: Tensor,
    listwise_weight: float,
    weights: Tensor | None = None,
    share: Sharing = alone,
) -> Tensor:
    """Log loss of each candidate and head, plus a softmax over each request's candidates.

    Args:
        logits: `(B, C, O)`.
        labels: `(B, C, O)` 0 or 1.
        real: `(B, C)` bool, false where a list of candidates is padded.
        kept: `(B,)` share of the negatives that were kept for training. Fewer negatives raise the
            odds by 1 / kept; the log loss takes that back, so that logits are those of the whole.
        weights: `(B, C)` how much each candidate's log loss counts; None: all the same.
        share: see `models.steps.Sharing`.
    """
    seen = logits - torch.log(kept)[:, None, None]
    each = functional.binary_cross_entropy_with_logits(seen, labels, reduction="none")
    mask = real[..., None].expand_as(each)
    weight = mask if weights is None else mask * weights[..., None]
    hits = labels * mask
    total = hits.sum(1)
    over = share(torch.stack([weight.sum(), (total > 0).sum()]).float()).clamp(min=1e-9)
    loss = (each * weight).sum() / over[0]
    if not listwise_weight:
        return loss
    scores = torch.log_softmax(logits.masked_fill(~mask, -1e4), 1)
    lists = -(scores * hits).sum(1) / total.clamp(min=1)
    return loss + listwise_weight * lists.sum() / over[1]


def inverse_propensities(propensities: Tensor, clip: float | None) -> Tensor | None:
    """`(B, C)` 1 / propensity, at most `clip`, and 1 where it is not known (nan); None: no clip.

    What was rarely shown where it was stands for the many times it was not (Horvitz & Thompson
    1952; clipped as by Ionides 2008).
    """
    if clip is None:
        return None
    weights = (1 / propensities.clamp(min=1e-9)).clamp(max=clip)
    return torch.where(torch.isnan(propensities), 1.0, weights)
