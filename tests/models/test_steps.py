"""What is random in a step: the same for all workers, and for each request wherever it is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.steps import LEVELS, THINNING, Step, over_workers

ROWS = np.arange(50_000)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(1, 7))
def test_workers_share_every_unit_once(num, world):
    units = np.arange(num) * 3
    shares = [Step(1, rank=rank, world=world).mine(units) for rank in range(world)]
    assert sorted(np.concatenate(shares).tolist()) == units.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_all_workers_draw_the_same_for_the_step_and_other_steps_other_things():
    first = Step(1, 0, 2, 3)
    one, same = (Step(1, 0, 2, 3, rank=rank, world=2).generator().random(9) for rank in (0, 1))
    assert np.array_equal(one, same)
    assert np.array_equal(one, first.generator().random(9))
    for other in (Step(2, 0, 2, 3), Step(1, 1, 2, 3), Step(1, 0, 1, 3), Step(1, 0, 2, 4)):
        assert not np.array_equal(one, other.generator().random(9))


def test_a_requests_numbers_go_by_the_request_and_not_by_where_it_is():
    step = Step(5, 1, 2, 3)
    whole = step.uniforms(ROWS, 4, purpose=LEVELS)
    some = np.asarray([77, 3, 40_000])
    assert np.array_equal(step.uniforms(some, 4, purpose=LEVELS), whole[some])
    assert np.array_equal(step.uniforms(some, 2, purpose=LEVELS), whole[some, :2])
    elsewhere = Step(5, 1, 2, 9, rank=1, world=3)
    assert np.array_equal(elsewhere.uniforms(some, 4, purpose=LEVELS), whole[some])
    for other in (Step(6, 1, 2), Step(5, 0, 2), Step(5, 1, 3)):
        assert not (other.uniforms(some, 4, purpose=LEVELS) == whole[some]).any()
    assert not (step.uniforms(some, 4, purpose=THINNING) == whole[some]).any()


def test_the_numbers_are_uniform_and_know_nothing_of_one_another():
    drawn = Step(1).uniforms(ROWS, 6, purpose=LEVELS)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in drawn.T])
    np.testing.assert_allclose(counts, 2500, atol=5 * np.sqrt(2500))
    columns = np.corrcoef(drawn.T) - np.eye(6)
    assert abs(columns).max() < 5 / np.sqrt(len(ROWS))
    neighbours = np.corrcoef(drawn[1:, 0], drawn[:-1, 0])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(len(ROWS))


def test_each_workers_dropout_is_its_own_and_can_be_had_again():
    def mask(step):
        step.seed_dropout()
        return torch.nn.functional.dropout(torch.ones(200))

    first = mask(Step(1, 0, 0, 4, rank=1, world=2))
    assert torch.equal(first, mask(Step(1, 0, 0, 4, rank=1, world=2)))
    for other in (Step(1, 0, 0, 4, rank=0, world=2), Step(1, 0, 0, 5, rank=1, world=2)):
        assert not torch.equal(first, mask(other))


def test_one_worker_asks_nobody():
    values = torch.tensor([3.0, 4.0])
    assert over_workers(values, 1) is values
    with pytest.raises(ValueError, match="process group"):
        over_workers(values, 2)
