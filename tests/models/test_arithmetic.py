"""Arithmetic of another kind trains the same networks; what a machine cannot do is told before."""

import numpy as np
import pytest
import torch

from models import arithmetic
from models.steps import Step
from models.training import optimizers, take
from tests.models.small import TRAIN, feed_of, planted, trainer

CPU = torch.device("cpu")


def losses(tmp_path, **changes):
    stage = TRAIN.retriever.model_copy(update={"epochs": 2})
    train = TRAIN.model_copy(update={"retriever": stage, "ranker": stage, **changes})
    made, found = trainer(planted(), train), []
    made.fit(feed_of(made), best=tmp_path, on_step=lambda *said: found.append(said[2]))
    for net in (made.towers, made.ranker):
        assert {p.dtype for p in net.parameters()} == {torch.float32}
    return found


def test_bfloat16_loses_nearly_the_same(tmp_path):
    exact, rough = losses(tmp_path), losses(tmp_path, precision="bfloat16")
    assert exact != rough
    np.testing.assert_allclose(rough, exact, rtol=0.05)


@pytest.mark.slow
def test_compiled_networks_lose_the_same():
    small = planted()
    for stage in range(2):
        found = []
        for compiling in (False, True):
            made = trainer(small)
            inner = (made.towers, made.ranker)[stage].eval()  # without dropout
            net = arithmetic.compiled(inner) if compiling else inner
            tools, work = optimizers(inner, TRAIN.ranker), made.work(stage)
            batches = [work.collate(made.units(stage)[i : i + 9], Step(1, stage)) for i in (0, 9)]
            found.append([take(net, work.loss(net, batch), tools).loss for batch in batches])
        np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_a_compiler_that_is_not_there_is_told_before(monkeypatch):
    arithmetic.check("float32", compiling=False, device=CPU)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"train.compile needs .* no-such-compiler is not there"):
        arithmetic.check("float32", compiling=True, device=CPU)
    with pytest.raises(ValueError, match=r"train.compile needs"):
        trainer(planted(), TRAIN.model_copy(update={"compile": True}))
