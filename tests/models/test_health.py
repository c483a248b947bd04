"""Gradients are told since the last report, tables by what of them was touched."""

import pytest
import torch

from models import health
from models.training import CLIP, Taken, optimizers, take
from tests.models.small import STAGE


def test_gradients_are_those_since_the_last_report():
    found = health.Gradients()
    for norm in (0.5, 3 * CLIP, 0.1, 0.4):
        found.add(Taken(loss=9.0, norm=norm))
    assert len(found) == 4
    assert found.report() == pytest.approx(
        {"grad_norm": 1.0, "grad_norm_max": 3.0, "clipped": 0.25}
    )
    assert len(found) == 0
    found.add(Taken(loss=9.0, norm=2.0))
    assert found.report()["clipped"] == 1


def test_rows_that_no_step_touched_are_told():
    table = torch.nn.Embedding(4, 3, sparse=True)
    torch.nn.init.ones_(table.weight)
    net = torch.nn.Sequential(table, torch.nn.Linear(3, 1))
    tools = optimizers(net, STAGE)
    before = health.tables(net, tools)
    assert before == pytest.approx({"0/norm": 3**0.5, "0/norm_max": 3**0.5, "0/untouched": 1.0})
    take(net, net(torch.tensor([1, 1, 2])).sum(), tools)
    assert health.tables(net, tools)["0/untouched"] == 0.5
    take(net, net(torch.tensor([0, 3])).sum(), tools)
    assert health.tables(net, tools)["0/untouched"] == 0
