"""Gates: they shut to exactly nothing on noise, and what carries the signal stays open."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.ranking.gates import Gates
from models.ranking.ranker import SESSIONS
from tests.models.ranking import logs
from tests.models.small import MODEL, random_side, rows_of

HALVES = [f"popularity_{days}d" for days in (3, 14, 90)]


def popular(rng):
    """What was popular of late is bought; what is said of the user means nothing."""
    batch = logs.unlabelled(rng)
    return replace(batch, labels=logs.drawn(rng, torch.sigmoid(3 * batch.popularity[..., 1] - 1)))


def personal(rng):
    """Some users buy, others do not; popularity means nothing."""
    batch = logs.unlabelled(rng)
    chances = torch.sigmoid(4 * batch.user.long[:, :1] - 1).expand(-1, logs.NUM_CANDIDATES)
    return replace(batch, labels=logs.drawn(rng, chances))


@pytest.mark.parametrize(
    ("log", "open_", "shut"),
    [
        (popular, "popularity_14d", ["user", "popularity_3d", "popularity_90d"]),
        (personal, "user", HALVES),
    ],
)
def test_noise_is_shut_out_wholly_and_what_carries_the_signal_stays_open(log, open_, shut):
    net = logs.train(log, steps=250, gate_weight=0.02)
    gates = net.gates()
    assert gates[open_] > 0.1
    assert {name: gates[name] for name in shut} == dict.fromkeys(shut, 0.0)
    batch = log(np.random.default_rng(9))
    found = torch.sigmoid(logs.logits(net, batch)).flatten().numpy()
    truth = batch.labels.flatten().numpy()
    assert np.corrcoef(found, truth)[0, 1] > 0.5


def test_without_a_price_no_gate_is_shut():
    net = logs.train(popular, steps=40, gate_weight=0.0)
    assert min(net.gates().values()) > 0


def test_each_level_and_timescale_has_a_gate():
    net, _ = logs.ranker()
    matched = ["match_7d", "match_30d", "match_180d"]
    assert list(net.gates()) == ["interaction", *SESSIONS, "user", *matched, "lifelong", *HALVES]
    assert set(net.gates().values()) == {1.0}


@torch.no_grad()
def test_a_level_whose_gate_is_shut_is_not_read():
    net = logs.ranker()[0].eval()
    user = rows_of(random_side(5), [1, 2, 3, 4])
    given = torch.arange(1, 9).expand(4, -1), torch.rand(4, 8, 3), torch.zeros(4, 8)
    before = net(user, *given)
    for name, changed in (
        ("user", replace(user, long=user.long + 1)),
        ("session_before", replace(user, sessions=user.sessions & (user.session < 2))),
    ):
        place = net.gate.names.index(name)
        assert (net(changed, *given) - before).abs().max() > 1e-5, name
        net.gate.raw[place] = -0.1
        torch.testing.assert_close(net(changed, *given), net(user, *given))
        net.gate.raw[place] = 0.2
    torch.testing.assert_close(net(user, *given), before)


def test_a_gradient_ends_at_a_border_only_where_it_leads_out():
    gates = Gates(["a", "b", "c", "d", "e"])
    gates.raw.data = torch.tensor([-0.1, -0.1, 0.1, 0.3, 0.3])
    assert gates.values().tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    (gates.values() * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])).sum().backward()
    assert (gates.raw.grad != 0).tolist() == [False, True, True, True, False]


def test_what_has_no_gate_is_open():
    gates = Gates(["a", "b"])
    gates.raw.data[1] = 0.0
    assert gates()[gates.places(["b", "nothing", "a"])].tolist() == [0.0, 1.0, 1.0]
    assert MODEL.ranker.gate_weight > 0
