"""Workers that share each step train as one would: the same losses for the same global batches."""

import numpy as np
import pytest

from models.steps import Step
from tests.models import sharing

pytestmark = pytest.mark.slow


EVERY_THREE = sharing.calm().model_copy(update={"checkpoint_every": 3})
IN_PARTS = EVERY_THREE.model_copy(update={"shard_tables": True})


@pytest.fixture(scope="module", params=[EVERY_THREE, IN_PARTS], ids=["whole", "in parts"])
def shared(request, tmp_path_factory):
    """What two workers came to, with whole tables or parts of them, and their checkpoints."""
    folder = tmp_path_factory.mktemp("shared")
    found = sharing.workers(2, folder, request.param)
    return found, sorted((folder / "checkpoints-0").iterdir())


@pytest.fixture(scope="module")
def alone():
    return sharing.run(sharing.trainer(sharing.calm()))


def test_every_parameter_has_a_gradient_whatever_a_worker_is_given():
    """DDP waits for all of them at every step."""
    made = sharing.trainer(sharing.calm())
    for stage, net in enumerate((made.towers, made.ranker)):
        work = made.work(stage)
        for units in (made.units(stage)[:31], made.units(stage)[:2]):
            for rank in (0, 1):
                batch = work.collate(units, Step(seed=1, stage=stage, rank=rank, world=2))
                net.zero_grad()
                work.loss(net, batch).backward()
                without = [name for name, p in net.named_parameters() if p.grad is None]
                assert without == []


def close(one, other, *, rtol):
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        numbers = [key for key in mine if key not in ("stage", "seconds")]
        np.testing.assert_allclose(
            [mine[key] for key in numbers], [theirs[key] for key in numbers], rtol=rtol
        )


def test_two_workers_lose_what_one_loses_at_every_step(shared, alone):
    found, _ = shared
    assert len(found["losses"]) == len(alone["losses"]) > 12
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-4)
    close(found["history"], alone["history"], rtol=1e-3)


def test_a_checkpoint_of_two_workers_goes_on_with_one(shared, alone):
    _, checkpoints = shared
    made = sharing.trainer(sharing.calm())
    made.resume(checkpoints[-1])
    assert made.progress.step, "it was written within an epoch"
    rest = sharing.run(made)
    np.testing.assert_allclose(rest["losses"], alone["losses"][-len(rest["losses"]) :], rtol=1e-4)
    assert 0 < len(rest["losses"]) < 6
    close(rest["history"], alone["history"], rtol=1e-3)


def test_a_training_goes_on_in_parts_whole_and_in_parts_again(shared, alone, tmp_path):
    _, checkpoints = shared
    made = sharing.trainer(EVERY_THREE)
    made.resume(checkpoints[0])
    assert made.progress.stage == 0, "the retriever was at it"
    rest = sharing.run(made, checkpoints=tmp_path / "one")
    np.testing.assert_allclose(rest["losses"], alone["losses"][-len(rest["losses"]) :], rtol=1e-4)
    next_ = sorted((tmp_path / "one").iterdir())[0]
    again = sharing.workers(2, tmp_path, IN_PARTS, resumed=str(next_))
    assert len(again["losses"]) == len(rest["losses"]) - int(next_.name) > 6
    np.testing.assert_allclose(again["losses"], alone["losses"][-len(again["losses"]) :], rtol=1e-4)
    close(again["history"], alone["history"], rtol=1e-3)
