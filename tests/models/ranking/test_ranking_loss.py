"""The ranking loss: padding, thinned negatives, lists."""

import numpy as np
import torch
from torch.nn import functional

from models.ranking.loss import ranking_loss
from models.training import thin

DRAW = torch.Generator().manual_seed(0)
LOGITS = torch.randn(4, 6, 2, generator=DRAW)
LABELS = (torch.rand(4, 6, 2, generator=DRAW) < 0.3).float()
REAL = torch.arange(6) < torch.tensor([6, 4, 3, 0])[:, None]
KEPT = torch.tensor([1.0, 0.5, 0.1, 1.0])


def loss(logits=LOGITS, labels=LABELS, real=REAL, kept=KEPT, weight=0.2):
    return ranking_loss(logits, labels, real, kept=kept, listwise_weight=weight)


def test_padding_changes_nothing_and_gets_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    loss(logits).backward()
    assert not logits.grad[~REAL].any()
    assert logits.grad[REAL].abs().min() > 0
    other = LOGITS.masked_fill(~REAL[..., None], 50.0)
    labels = LABELS.masked_fill(~REAL[..., None], 1.0)
    torch.testing.assert_close(loss(other, labels), loss())


def test_the_pointwise_part_is_the_mean_log_loss_of_thinned_odds():
    seen = LOGITS - torch.log(KEPT)[:, None, None]
    expected = functional.binary_cross_entropy_with_logits(seen[REAL], LABELS[REAL])
    torch.testing.assert_close(loss(weight=0), expected)


def test_the_listwise_part_is_a_softmax_over_each_requests_candidates():
    total = []
    for row in range(4):
        for head in range(2):
            chances = torch.log_softmax(LOGITS[row, REAL[row], head], 0)
            hits = LABELS[row, REAL[row], head]
            if hits.sum():
                total.append(-(chances * hits).sum() / hits.sum())
    found = loss(weight=1) - loss(weight=0)
    torch.testing.assert_close(found, torch.stack(total).mean())
    assert len(total) > 2


def test_lists_without_an_outcome_have_no_listwise_part():
    nothing = torch.zeros_like(LABELS)
    torch.testing.assert_close(loss(labels=nothing, weight=5), loss(labels=nothing, weight=0))


def test_no_candidates_at_all_are_no_loss():
    assert loss(real=torch.zeros_like(REAL)).item() == 0


def test_a_bias_trained_on_thinned_lists_recovers_the_rate_of_the_whole():
    """Only a fifth of the candidates is kept, all outcomes among them."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.random((400, 100)) < 0.05).float()
    real = torch.ones(400, 100, dtype=torch.bool)
    draw = torch.from_numpy(rng.random((400, 100)))
    chosen, kept = thin(real, labels > 0, 20, draw=draw)
    kept_labels = labels.gather(1, chosen)[..., None]
    assert kept_labels.mean() > 4 * labels.mean()
    bias = torch.zeros((), requires_grad=True)
    tool = torch.optim.LBFGS([bias], max_iter=50)

    def closure():
        tool.zero_grad()
        found = ranking_loss(
            bias.expand(kept_labels.shape),
            kept_labels,
            real.gather(1, chosen),
            kept=kept,
            listwise_weight=0.0,
        )
        found.backward()
        return found

    tool.step(closure)
    rate = labels.mean().item()
    assert abs(torch.sigmoid(bias).item() - rate) < 0.1 * rate
