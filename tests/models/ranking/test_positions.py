"""Positions: learned apart from worth, never served, and propensities that weigh the log loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.ranking.loss import inverse_propensities, ranking_loss
from models.ranking.positions import PositionTerm
from models.training import ranker_loss
from tests.models.ranking import logs

EXAMINED = torch.tensor([1.0, 0.6, 0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
"""Chance that a position is looked at."""
TURNED = 0.2
"""Share of the slates that were shown the other way round, at random."""


def worth(batch):
    return torch.sigmoid(1.5 * batch.popularity[..., 0])


def shown(rng):
    """Slates by affinity, which means nothing, now and then the other way round; what is seen is
    bought by its worth."""
    batch = logs.unlabelled(rng)
    turned = torch.from_numpy(rng.random((logs.NUM_REQUESTS, 1)) < TURNED)
    order = torch.where(turned, batch.affinity, -batch.affinity).argsort(1)
    positions = order.argsort(1)
    chance = torch.where(turned, TURNED, 1 - TURNED).expand_as(positions)
    labels = logs.drawn(rng, EXAMINED[positions] * worth(batch))
    return replace(batch, positions=positions, labels=labels, propensities=chance)


def unaware(rng):
    batch = shown(rng)
    return replace(batch, positions=torch.full_like(batch.positions, -1))


def rightly_ordered(net):
    """Share of pairs of a slate that are ordered by their worth."""
    batch = logs.unlabelled(np.random.default_rng(99))
    found, truth = logs.logits(net, batch), worth(batch)
    apart = truth[:, :, None] - truth[:, None]
    return ((found[:, :, None] > found[:, None]) == (apart > 0))[apart != 0].float().mean().item()


@pytest.fixture(scope="module")
def aware():
    return logs.train(shown, steps=150)


@pytest.fixture(scope="module")
def blind():
    return rightly_ordered(logs.train(unaware, steps=150))


def test_with_positions_known_worth_is_told_from_place(aware, blind):
    assert blind < 0.87
    assert rightly_ordered(aware) > max(blind + 0.05, 0.9)


def test_inverse_propensities_take_the_bias_away_without_a_term(blind):
    weighed = rightly_ordered(logs.train(unaware, steps=150, propensity_clip=10.0))
    assert weighed > blind + 0.03


def test_what_was_learned_of_positions_falls_as_examination_does(aware):
    term = aware.position(torch.arange(8)[None])[0, :, 0]
    assert np.corrcoef(term.detach().numpy(), EXAMINED.log().numpy())[0, 1] > 0.95


@torch.no_grad()
def test_what_is_served_does_not_depend_on_positions(aware):
    batch = shown(np.random.default_rng(5))
    given = batch.user, batch.places, batch.popularity, batch.affinity
    assert torch.equal(aware(*given, batch.positions), aware(*given))
    assert torch.equal(aware(*given, batch.positions.flip(1)), aware(*given))
    aware.train()
    assert (aware(*given, batch.positions) - aware(*given)).abs().max() > 0.1
    aware.eval()


def test_a_place_that_is_not_known_adds_nothing_and_a_far_one_has_the_last_bucket():
    term = PositionTerm(2)
    term.table.weight.data.normal_()
    found = term(torch.tensor([[-1, 0, 1, 1 << 20, (1 << 20) + 1]]))
    assert not found[0, 0].any()
    assert torch.equal(found[0, 3], found[0, 4])
    assert not torch.equal(found[0, 1], found[0, 2])


def test_a_batch_without_positions_has_the_loss_of_before():
    net, model = logs.ranker()
    batch = logs.unlabelled(np.random.default_rng(1))
    plain = ranking_loss(
        net(batch.user, batch.places, batch.popularity, batch.affinity),
        batch.labels,
        batch.places > 0,
        kept=batch.kept,
        listwise_weight=0.0,
    )
    net.position.table.weight.data.normal_()
    clipped = model.ranker.model_copy(update={"propensity_clip": 10.0})
    for config in (model.ranker, clipped):
        torch.testing.assert_close(ranker_loss(net.train(), batch, config=config), plain)


def test_propensities_are_inverted_clipped_and_one_where_unknown():
    given = torch.tensor([[0.5, 0.01, 0.0, float("nan"), 1.0]])
    assert inverse_propensities(given, 20.0).tolist() == [[2.0, 20.0, 20.0, 1.0, 1.0]]
    assert inverse_propensities(given, None) is None


def test_weights_are_shares_of_the_log_loss():
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 4, 1, generator=rng), torch.ones(3, 4, 1)
    real = torch.arange(4) < torch.tensor([4, 2, 0])[:, None]
    given = {"kept": torch.ones(3), "listwise_weight": 0.0}
    plain = ranking_loss(logits, labels, real, **given)
    same = ranking_loss(logits, labels, real, weights=torch.full((3, 4), 0.3), **given)
    torch.testing.assert_close(plain, same)
    one = torch.zeros(3, 4)
    one[1, 1] = 5
    alone = ranking_loss(logits, labels, real, weights=one, **given)
    torch.testing.assert_close(alone, torch.nn.functional.softplus(-logits[1, 1, 0]))
