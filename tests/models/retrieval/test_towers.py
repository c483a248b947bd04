"""The two towers: new items, what the loss counts, and which rows a step may touch."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.catalogue import Catalogue
from models.model import build
from models.training import optimizers, take
from tests.models.small import (
    CATALOGUE,
    MODEL,
    STAGE,
    batch_of,
    nobody,
    planted,
    random_side,
    rows_of,
    towers,
)

EXAMPLES = planted().examples
ROWS = [20, 21, 22]
PLACES = torch.arange(1, 31)


def loss(net, **given):
    with torch.no_grad():
        return float(net(batch_of(EXAMPLES, ROWS, **given)))


def positives(*, row):
    """The places that a request of `ROWS` wanted."""
    which, items, _ = EXAMPLES.requests.pairs(np.asarray(ROWS))
    return items[which == row].tolist()


def strange():
    """A place that no request of `ROWS` wanted."""
    return next(p for p in range(1, 31) if all(p not in positives(row=row) for row in range(3)))


def test_a_new_item_has_a_vector_from_its_text_and_fields_alone():
    rows = CATALOGUE.table.slice(0, 3)
    texts = pa.chunked_array([["red mug", "red mug", "blue lamp"]])
    kinds, prices = pa.chunked_array([["mug"] * 3]), pa.chunked_array([[1.0] * 3])
    for name, column in (("text", texts), ("kind", kinds), ("price", prices)):
        rows = rows.set_column(rows.column_names.index(name), name, column)
    torch.manual_seed(1)
    net = build(Catalogue(rows, MODEL.catalogue), MODEL)[0].eval()
    one, same, other = net.item_vectors(torch.tensor([1, 2, 3])).detach()
    assert not net.item.id.weight.any(), "an id says nothing before training"
    assert one.norm() > 0.01
    assert (one - same).norm() < 1e-6
    assert (one - other).norm() > 1e-3


def test_a_users_memory_and_context_make_their_query():
    net, user = towers().eval(), random_side(4)
    asked = net.user_query(user)
    for name in ("long", "context"):
        changed = replace(user, **{name: getattr(user, name).flip(0)})
        assert not torch.allclose(net.user_query(changed).vector, asked.vector), name
    alone = net.user_query(rows_of(user, [2]))
    assert torch.allclose(alone.vector[0], asked.vector[2], atol=1e-5)
    assert torch.allclose(alone.pull[0], asked.pull[2], atol=1e-6)


def test_hidden_memory_leaves_no_trace_in_the_query():
    net, user = towers().eval(), random_side(4)
    hidden = user.keep(torch.zeros(4, 3, dtype=torch.bool))
    empty = replace(nobody([60] * 4), context=user.context, now_days=user.now_days)
    assert torch.allclose(net.user_query(hidden).vector, net.user_query(empty).vector, atol=1e-6)
    assert not net.user_query(hidden).pull.any()
    assert not torch.allclose(net.user_query(hidden).vector, net.user_query(user).vector)


def test_pull_is_to_items_of_ones_own_past_and_adds_up():
    net, user = towers().eval(), random_side(4)
    asked = net.user_query(user)
    found = asked.returning(len(CATALOGUE))
    for row in range(4):
        for place in range(1, len(CATALOGUE)):
            mine = user.recent[row] & (user.item[row] == place)
            expected = torch.asinh(asked.pull[row][mine].sum())
            assert torch.isclose(found[row, place], expected, atol=1e-6)
    assert found.any()


def test_a_scarcer_negative_costs_more_and_a_commoner_one_less():
    net, place = towers(query_weight=0), strange()
    log_q = torch.zeros(len(CATALOGUE))
    plain = loss(net, negatives=[place], log_q=log_q)
    for change in (-3.0, 3.0):
        other = log_q.clone()
        other[place] = change
        assert (loss(net, negatives=[place], log_q=other) - plain) * change < 0


def test_negatives_of_the_future_and_own_outcomes_do_not_count():
    net, ordinary = towers(query_weight=0), strange()
    only = {"positives": ([0], [positives(row=0)[0]])}
    base = loss(net, negatives=[ordinary], **only)
    own = loss(net, negatives=[ordinary, positives(row=0)[0]], **only)
    assert own == pytest.approx(base, rel=1e-6)
    another = next(p for p in range(1, 31) if p not in (ordinary, *positives(row=0)))
    assert loss(net, negatives=[ordinary, another], **only) > base + 1e-4

    now = int(EXAMPLES.requests.as_of_ms[ROWS[0]])
    future = loss(net, negatives=[ordinary, another], appeared={another: now}, **only)
    assert future == pytest.approx(base, rel=1e-6)


def test_words_are_not_held_against_items_of_the_future():
    net, ordinary = towers(query_weight=1.0), strange()
    mine, theirs = positives(row=0)[0], positives(row=2)[0]
    assert mine != theirs
    moments = EXAMPLES.requests.as_of_ms[ROWS] / 86_400_000
    assert moments[0] < moments[2]
    another = next(p for p in range(1, 31) if p not in (ordinary, mine, theirs))
    seen = net.item.items.first_seen_days

    def by_words(*, negatives, wanted):
        batch = batch_of(EXAMPLES, ROWS, negatives=negatives, positives=wanted)
        hits, others = net.item_vectors(batch.positives), net.item_vectors(batch.negatives)
        with torch.no_grad():
            return float(net._query_loss(batch, hits, others)) / len(batch.asked)

    alone, both = ([0], [mine]), ([0, 2], [mine, theirs])
    base = by_words(negatives=[ordinary], wanted=alone)
    more = by_words(negatives=[ordinary, another], wanted=alone)
    assert more > base + 1e-4
    seen[another] = moments[0]
    assert by_words(negatives=[ordinary, another], wanted=alone) == pytest.approx(base, rel=1e-6)
    seen[another] = moments[0] - 1e-6
    assert by_words(negatives=[ordinary, another], wanted=alone) == pytest.approx(more, rel=1e-6)

    later = by_words(negatives=[ordinary], wanted=([2], [theirs]))
    expected = (base + later) / 2
    assert by_words(negatives=[ordinary], wanted=both) == pytest.approx(expected, rel=1e-6)


def test_what_one_request_wanted_is_a_negative_of_the_others():
    net, wanted = towers(query_weight=0), positives(row=0)[0]
    both = {"positives": ([0, 1], [wanted, positives(row=1)[0]])}
    assert wanted not in positives(row=1)
    with_it = loss(net, negatives=[strange(), wanted], **both)
    assert with_it > loss(net, negatives=[strange()], **both) + 1e-4


def test_nothing_to_tell_apart_costs_nothing_and_harms_nothing():
    net = towers(query_weight=0)
    place = positives(row=0)[0]
    found = net(batch_of(EXAMPLES, ROWS, negatives=[place], positives=([0], [place])))
    found.backward()
    assert found.item() == 0
    assert all(p.grad is None or torch.isfinite(_dense(p.grad)).all() for p in net.parameters())


def test_items_are_learned_to_be_found_by_their_words():
    net = towers(query_weight=1.0)
    given = {"negatives": list(range(1, 31)), "positives": ([0, 1], [3, 17])}
    before = loss(net, **given)
    batch = batch_of(EXAMPLES, ROWS, **given)
    tools = optimizers(net, STAGE)
    for _ in range(50):
        take(net, net(batch), tools)
    assert loss(net, **given) < before - 1
    by_words = net.query_vectors(net.item.items.text[[3, 17]]) @ net.item_vectors(PLACES).T
    assert (by_words.argmax(1) + 1).tolist() == [3, 17]


def test_the_loss_falls_on_the_planted_world():
    net = towers()
    rng = np.random.default_rng(0)
    rows = planted().rows("train")
    tools = optimizers(net, STAGE)
    losses = []
    for _ in range(40):
        chosen = rng.choice(rows, 32, replace=False).tolist()
        batch = batch_of(EXAMPLES, chosen, negatives=rng.integers(1, 31, 24).tolist())
        losses.append(take(net, net(batch), tools).loss)
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:3])


def test_tables_have_sparse_gradients_of_the_rows_that_occurred():
    net = towers()
    batch = batch_of(EXAMPLES, ROWS, negatives=[4, 9])
    net(batch).backward()
    places = {*batch.memories.item.flatten().tolist(), *batch.positives.tolist(), 4, 9}
    items = net.item.items
    words = set(items.text[list(places)].flatten().tolist()) - {0}
    kinds = set(items.categories[list(places), 0].tolist())
    assert _touched(net.item.id.weight) == places - {0}
    assert _touched(net.item.text.weight) == words
    assert _touched(net.item.fields[0].weight) == kinds - {0}, "padding is never read"
    assert len(places) < 31, "or this would show nothing"


def _touched(table):
    assert table.grad.is_sparse
    gradient = table.grad.coalesce()
    return set(gradient.indices()[0][gradient.values().abs().sum(1) > 0].tolist())


def _dense(gradient):
    return gradient.to_dense()


def test_of_several_interests_the_nearest_counts():
    net, user = towers(interests=3).eval(), random_side(4)
    vectors = net.item_vectors(PLACES)
    with torch.no_grad():
        asked = net.user_query(user)
        each = asked.vector @ vectors.T
        assert torch.allclose(asked.meeting(vectors), each.amax(1), atol=1e-6)
    assert asked.vector.shape == (4, 3, 8)
    assert (each.amax(1) > each.amin(1)).any(), "they differ"


def test_without_its_moment_a_request_is_what_the_encoder_says_of_its_items():
    net, user = towers(moment=False, fade=False, query_weight=0).eval(), random_side(4)
    asked = net.user_query(user)
    older = replace(user, age_days=user.age_days + 300 * user.recent)
    changed = replace(older, long=older.long + 1, context=older.context.flip(0))
    with torch.no_grad():
        assert torch.allclose(net.user_query(changed).vector, asked.vector, atol=1e-6)
    assert not asked.pull.any()
    assert not asked.trend.any()
    assert not asked.vector[0].any(), "of nobody nothing is known"


def test_attention_fades_with_time_and_place():
    torch.manual_seed(0)
    net, user = towers(moment=False, blocks=1).eval(), random_side(4)
    older = replace(user, age_days=user.age_days * 20)
    with torch.no_grad():
        one, other = net.user_query(user).vector, net.user_query(older).vector
    assert not torch.allclose(one, other, atol=1e-6)
