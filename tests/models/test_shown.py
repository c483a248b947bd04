"""Slates that were shown: how they are carried, and that the ranker learns from them."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.events import key64
from models.steps import Step
from models.training import drop_levels, ranker_batch
from tests.models.small import (
    CATALOGUE,
    TRAIN,
    Small,
    examples_of,
    feed_of,
    planted,
    rows_of,
    trainer,
)

SMALL = planted()
NUM = len(SMALL.table)
NO = float("nan")


def key(place):
    return int(CATALOGUE.keys[place])


def with_slates(slates, *, table=SMALL.table):
    """The world's requests; `slates` are of some rows: place or key, position, propensity each."""
    columns = {"shown": pa.uint64(), "positions": pa.int32(), "propensities": pa.float32()}
    for number, (name, kind) in enumerate(columns.items()):
        lists = [
            [each[number] for each in slates[row]] if row in slates else []
            for row in range(len(table))
        ]
        table = table.append_column(name, pa.array(lists, pa.list_(kind)))
    return table


def outcomes(row):
    """Place to label bits."""
    _, items, bits = SMALL.examples.requests.pairs(np.asarray([row]))
    return dict(zip(items.tolist(), bits.tolist(), strict=True))


def others(row, num):
    return [place for place in range(1, 31) if place not in outcomes(row)][:num]


def slate_of(row):
    """Its first outcome in the middle of four others, counted from 1 as some logs do."""
    places = others(row, 4)
    places.insert(2, next(iter(outcomes(row))))
    return [(key(place), 1 + at, 0.5 / (1 + at)) for at, place in enumerate(places)]


SHOWN = {40: slate_of(40), 43: slate_of(43)[1:], 50: slate_of(50)}
EXAMPLES = examples_of(with_slates(SHOWN), SMALL.part)


def batch_of(rows, *, examples=EXAMPLES, seed=0, **changes):
    return ranker_batch(
        examples,
        np.asarray(rows),
        retriever=trainer(SMALL).retriever(),
        num_heads=2,
        config=TRAIN.model_copy(update=changes),
        step=Step(seed),
    )


def test_slates_are_padded_and_in_the_order_of_their_rows():
    found = EXAMPLES.requests.slates(np.asarray([50, 7, 43]))
    assert found.places.shape == (3, 5)
    for row, number in ((50, 0), (43, 2)):
        want = SHOWN[row]
        pad = 5 - len(want)
        assert CATALOGUE.keys[found.places[number]].tolist()[: len(want)] == [s[0] for s in want]
        assert found.positions[number].tolist() == [s[1] for s in want] + [-1] * pad
        np.testing.assert_allclose(found.propensities[number], [s[2] for s in want] + [NO] * pad)
    assert not found.places[1].any()
    assert EXAMPLES.requests.slates(np.asarray([7, 8])).places.shape == (2, 0)


def test_a_table_without_the_columns_has_no_slates():
    assert SMALL.examples.requests.shown is None
    found = SMALL.examples.requests.slates(np.asarray([40, 43]))
    assert found.places.shape == found.positions.shape == found.propensities.shape == (2, 0)


def test_items_that_the_catalogue_lacks_are_left_out_with_what_lies_beside_them():
    gone = key64("gone")
    table = with_slates(
        {
            40: [(key(3), 0, 0.9), (gone, 1, 0.8), (key(9), 2, NO)],
            41: [(gone, 0, 0.7)],
            42: [(key(5), 7, 0.6)],
        }
    )
    found = examples_of(table, SMALL.part).requests.slates(np.asarray([40, 41, 42]))
    assert found.places.tolist() == [[3, 9], [0, 0], [5, 0]]
    assert found.positions.tolist() == [[0, 2], [-1, -1], [7, -1]]
    np.testing.assert_allclose(found.propensities, [[0.9, NO], [NO, NO], [0.6, NO]])


def test_lists_that_do_not_fit_together_are_refused():
    table = with_slates({})
    place = table.schema.get_field_index("shown")
    lists = pa.array([[key(3)]] + [[]] * (NUM - 1), pa.list_(pa.uint64()))
    with pytest.raises(ValueError, match="1 items were shown at 0 positions"):
        examples_of(table.set_column(place, "shown", lists), SMALL.part)


def test_a_missing_slate_is_an_empty_one():
    table = with_slates({40: SHOWN[40]})
    for name in ("shown", "positions", "propensities"):
        place, column = table.schema.get_field_index(name), table[name].to_pylist()
        lists = [each or None for each in column]
        table = table.set_column(place, name, pa.array(lists, table.schema.field(name).type))
    found = examples_of(table, SMALL.part).requests.shown
    assert np.flatnonzero(np.diff(found.offsets)).tolist() == [40]
    assert len(found.places) == 5


def test_the_candidates_of_a_shown_slate_are_the_slate_and_what_was_not_chosen_is_negative():
    found = batch_of([40, 7, 43])
    for number, row in ((0, 40), (2, 43)):
        real = found.places[number] > 0
        shown = {CATALOGUE.places(np.asarray([np.uint64(k)]))[0]: s for k, *s in SHOWN[row]}
        assert sorted(found.places[number][real].tolist()) == sorted(shown)
        assert found.kept[number] == 1, "nothing was dropped"
        for column in torch.nonzero(real)[:, 0].tolist():
            place = int(found.places[number, column])
            bits = outcomes(row).get(place, 0)
            assert found.labels[number, column].tolist() == [bits & 1, bits >> 1 & 1]
            position, propensity = shown[place]
            assert found.positions[number, column] == position
            assert found.propensities[number, column].item() == pytest.approx(propensity)
    assert found.labels[0].sum() > 0
    assert (found.positions[1] == -1).all()
    beyond = found.places == 0
    assert (found.positions[beyond] == -1).all()
    assert found.propensities[beyond | (found.positions < 0)].isnan().all()


def test_the_others_are_what_retrieval_brings_as_if_no_slate_were_in_the_batch():
    whole = {"num_candidates": 1000}
    mixed, plain = (
        batch_of([40, 7, 8], **whole),
        batch_of([40, 7, 8], examples=SMALL.examples, **whole),
    )
    for number in (1, 2):
        for one, other in ((mixed, plain), (plain, mixed)):
            real = one.places[number] > 0
            scores = dict(
                zip(other.places[number].tolist(), other.affinity[number].tolist(), strict=True)
            )
            for place, score in zip(
                one.places[number][real].tolist(), one.affinity[number][real].tolist(), strict=True
            ):
                assert score == pytest.approx(scores[place], rel=1e-4, abs=1e-5)
    assert (plain.positions == -1).all()
    assert plain.propensities.isnan().all()
    assert len(set(mixed.places[0].tolist())) == 6, "the slate and padding"


def test_the_affinity_of_a_slate_is_the_towers_own():
    found = batch_of([40, 43], level_dropout=0.0)
    retriever = trainer(SMALL).retriever()
    scores = retriever.affinity(EXAMPLES.user_side(np.asarray([40, 43])))
    expected = scores.gather(1, found.places)
    real = found.places > 0
    torch.testing.assert_close(found.affinity[real], expected[real])


@pytest.mark.parametrize("room", [2, 4, 5])
def test_a_slate_is_thinned_only_where_it_exceeds_the_room(room):
    found = batch_of([40], num_candidates=room)
    assert found.places.shape == (1, room)
    assert (found.places > 0).all()
    assert found.labels.any(2).sum() == 1, "the outcome is kept"
    assert found.kept[0].item() == pytest.approx((room - 1) / 4)
    of_place = {CATALOGUE.places(np.asarray([np.uint64(k)]))[0]: p for k, p, _ in SHOWN[40]}
    assert found.positions[0].tolist() == [of_place[place] for place in found.places[0].tolist()]


def test_a_slate_alone_draws_no_other_levels_than_a_retrieved_list():
    shown, plain = (batch_of([40], examples=e, seed=3) for e in (EXAMPLES, SMALL.examples))
    assert torch.equal(shown.user.recent, plain.user.recent)
    levels = drop_levels(np.asarray([40]), TRAIN.level_dropout, Step(3))
    given = EXAMPLES.user_side(np.asarray([40])).keep(levels)
    assert torch.equal(shown.user.recent, rows_of(given, [0]).recent)


def test_training_goes_on_over_both_kinds(tmp_path):
    class Shown(Small):
        examples = EXAMPLES

    made = trainer(Shown(SMALL.events))
    assert set(SHOWN) & set(SMALL.rows("train").tolist())
    (tmp_path / "best").mkdir()
    losses, stages = [], []

    def on_step(stage, done, loss):
        losses.append(loss)
        stages.append(stage)

    made.fit(feed_of(made), best=tmp_path / "best", on_step=on_step)
    assert np.isfinite(losses).all()
    plain, plain_losses = trainer(SMALL), []
    plain.fit(
        feed_of(plain), best=tmp_path / "best", on_step=lambda *said: plain_losses.append(said[2])
    )
    half = stages.count("retriever")
    assert losses[:half] == plain_losses[:half], "the retriever knows no slates"
    assert losses[half:] != plain_losses[half:]
