"""Steps of training: what is drawn, what is kept, and which weights a step touches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval.towers import RetrieverConfig
from models.steps import Step
from models.training import (
    NegativeSampler,
    StageConfig,
    drop_levels,
    is_table,
    optimizers,
    ranker_batch,
    ranker_loss,
    take,
    thin,
    warm,
)
from tests.models.small import STAGE, TRAIN, batch_of, planted, trainer

EXAMPLES = planted().examples
TABLES = ("item.id.weight", "item.text.weight", "item.fields.0.weight")


def test_the_log_of_the_chance_is_that_of_the_draws():
    config = RetrieverConfig(num_negatives=5)
    sampler = NegativeSampler(np.asarray([1] * 40 + [2] * 10 + [3]), 6, config)
    rng = np.random.default_rng(0)
    draws = [sampler.draw(rng) for _ in range(4000)]
    counts = np.mean([np.bincount(drawn, minlength=6) for drawn in draws], axis=0)
    np.testing.assert_allclose(counts[1:], sampler.log_q.exp()[1:], rtol=0.1, atol=0.01)
    assert counts[0] == 0, "no item is no negative"
    assert counts.max() <= 1, "each is drawn once"
    assert counts[5] > 0, "an item that nobody chose has a chance, too"


def test_negatives_follow_the_power_of_popularity():
    outcomes = np.asarray([1] * 40 + [2] * 10)
    rng = np.random.default_rng(0)
    for power, ratio in ((0.0, 1.0), (0.75, 4**0.75)):
        config = RetrieverConfig(num_negatives=1, negative_power=power)
        sampler = NegativeSampler(outcomes, 6, config)
        counts = np.bincount([sampler.draw(rng)[0] for _ in range(6000)], minlength=6)
        assert counts[1] / counts[2] == pytest.approx(ratio, rel=0.15)


def test_all_items_are_negatives_where_nothing_is_sampled():
    sampler = NegativeSampler(np.asarray([1, 1, 2]), 6, RetrieverConfig(num_negatives=None))
    assert sampler.draw(np.random.default_rng(0)).tolist() == [1, 2, 3, 4, 5]
    assert not sampler.log_q.any()


def test_draws_follow_the_generator():
    sampler = NegativeSampler(np.arange(1, 31), 31, RetrieverConfig(num_negatives=20))
    one, same, other = (sampler.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.floats(0, 0.4),
)
def test_thinning_keeps_all_outcomes_and_says_how_much_of_the_rest(seed, count, rate):
    rng = np.random.default_rng(seed)
    real = torch.from_numpy(rng.random((4, 10)) < 0.7)
    hit = torch.from_numpy(rng.random((4, 10)) < rate) & real
    chosen, kept = thin(real, hit, count, draw=torch.from_numpy(rng.random((4, 10))))
    assert chosen.shape == (4, min(count, 10))
    for row in range(4):
        numbers = chosen[row].tolist()
        hits = set(torch.nonzero(hit[row])[:, 0].tolist())
        missed = set(torch.nonzero(real[row])[:, 0].tolist()) - hits
        left = set(numbers) & missed
        assert len(set(numbers)) == len(numbers)
        assert len(hits & set(numbers)) == min(count, len(hits))
        assert len(left) == min(len(missed), max(count - len(hits), 0))
        share = len(left) / len(missed) if left else 1.0
        assert kept[row].item() == pytest.approx(share)
        padding = [not real[row, n] for n in numbers]
        assert padding == sorted(padding), "padding comes last"


def test_every_other_candidate_is_as_likely_to_be_kept():
    hit = (torch.arange(8) == 2).expand(4000, -1)
    draw = torch.from_numpy(np.random.default_rng(0).random(hit.shape))
    chosen, kept = thin(torch.ones_like(hit), hit, 3, draw=draw)
    counts = np.bincount(chosen.flatten(), minlength=8)
    assert counts[2] == 4000
    np.testing.assert_allclose(np.delete(counts, 2), 4000 * 2 / 7, rtol=0.1)
    assert torch.allclose(kept, torch.tensor(2 / 7))


def test_dropped_levels_are_a_share_of_the_requests_with_every_set_as_likely():
    kept = drop_levels(np.arange(40_000), 0.3, Step(seed=1))
    sets = np.bincount((kept * torch.tensor([1, 2, 4])).sum(1), minlength=8) / 40_000
    np.testing.assert_allclose(sets[:7], 0.3 / 8, atol=0.004)
    assert sets[7] == pytest.approx(0.7 + 0.3 / 8, abs=0.01)
    assert drop_levels(np.arange(50), 0.0, Step(seed=1)).all()


def test_a_retriever_batch_holds_the_outcomes_of_its_threads():
    made = trainer(planted())
    threads, chosen = made.threads, np.asarray([3, 0, 7])
    batch = made.work(0).collate(chosen, Step(seed=1))
    rows = threads.requests_of(chosen)[1]
    requests = EXAMPLES.requests
    which, items, bits = requests.pairs(rows)
    bought = (bits >> made.target) & 1 > 0
    wanted = set(zip(which[bought].tolist(), items[bought].tolist(), strict=True))
    pairs = list(zip(batch.request.tolist(), batch.positives.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == wanted
    places = torch.cat([batch.positives, batch.negatives])
    assert torch.equal(batch.log_q, made.sampler.log_q[places])
    closed = {(row, int(batch.negatives[number])) for row, number in batch.closed.T.tolist()}
    drawn = batch.negatives.tolist()
    seen, now = EXAMPLES.catalogue.first_seen_ms, requests.as_of_ms[rows]
    future = {(r, p) for r in range(len(rows)) for p in drawn if seen[p] >= now[r]}
    assert closed == future | {(row, place) for row, place in wanted if place in drawn}
    table = EXAMPLES.popularity.read(batch.now_days, batch.negatives.expand(len(rows), -1))
    assert torch.equal(batch.popularity[batch.step], table)
    hits = EXAMPLES.popularity.read(batch.now_days[batch.request], batch.positives[:, None])
    assert torch.equal(batch.popularity_hit, hits[:, 0])
    item = batch.memories.item
    found = torch.cat([batch.negatives, torch.zeros(1, dtype=torch.long)])[batch.slots]
    assert torch.equal(found, torch.where(torch.isin(item, batch.negatives), item, 0))


def test_a_step_touches_only_the_rows_of_tables_that_occurred():
    net = trainer(planted()).towers.train()
    batch = batch_of(EXAMPLES, [40, 41], negatives=[2])
    tools = optimizers(net, STAGE)
    take(net, net(batch), tools)  # the second step has moments of the first
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    batch = batch_of(EXAMPLES, [50], negatives=[9])
    take(net, net(batch), tools)
    places = list({*batch.memories.item.flatten().tolist(), *batch.positives.tolist(), 9})
    items = net.item.items
    rows = (places, items.text[places].flatten().tolist(), items.categories[places, 0].tolist())
    after = dict(net.named_parameters())
    for name, occurred in zip(TABLES, rows, strict=True):
        changed = torch.nonzero((after[name] != before[name]).any(1))[:, 0].tolist()
        assert set(changed) <= set(occurred) - {0}
        assert changed, name
        assert len(set(occurred)) < len(after[name]) or name == TABLES[2]
    dense = [name for name in before if name not in TABLES and name.endswith("weight")]
    assert sum(not torch.equal(after[name], before[name]) for name in dense) > len(dense) / 2


def test_every_parameter_has_one_optimizer_and_tables_the_sparse_one():
    for net in (trainer(planted()).towers, trainer(planted()).ranker):
        dense, sparse = optimizers(net, STAGE)
        names = {id(p): name for name, p in net.named_parameters()}
        found = [[names[id(p)] for p in o.param_groups[0]["params"]] for o in (dense, sparse)]
        assert sorted(found[0] + found[1]) == sorted(names.values())
        assert tuple(found[1]) == TABLES
        assert [name for name in names.values() if is_table(net, name)] == found[1]
        assert isinstance(sparse, torch.optim.SparseAdam)


@pytest.mark.parametrize("worth", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_refused_before_any_harm(worth):
    net = trainer(planted()).towers
    tools = optimizers(net, STAGE)
    batch = batch_of(EXAMPLES, [40, 41], negatives=[2])
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with pytest.raises(ValueError, match=r"loss is .*learning_rate"):
        take(net, net(batch) * worth, tools)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert not tools[0].state


def test_a_step_returns_the_loss_and_clips_the_gradient():
    net = torch.nn.Sequential(torch.nn.Embedding(2, 2, sparse=True), torch.nn.Linear(2, 1))
    tools = [torch.optim.SGD(net[1].parameters(), lr=1.0), torch.optim.SparseAdam([net[0].weight])]
    before = net[1].weight.detach().clone()
    loss = 1000 * net(torch.tensor([1])).sum()
    taken = take(net, loss, tools)
    assert taken.loss == pytest.approx(loss.item())
    assert taken.norm > 100, "as it was before"
    assert (net[1].weight - before).norm() <= 1 + 1e-5
    assert (net[1].weight - before).norm() > 0.1


def test_the_rates_warm_up_and_then_fall_to_a_tenth():
    net = trainer(planted()).towers
    config = StageConfig(learning_rate=1.0, table_learning_rate=10.0)
    tools = optimizers(net, config)
    rates = []
    for done in np.linspace(0, 1, 201):
        warm(tools, config, float(done))
        dense, sparse = (tool.param_groups[0]["lr"] for tool in tools)
        assert sparse == pytest.approx(10 * dense)
        rates.append(dense)
    peak = int(np.argmax(rates))
    assert rates[0] == pytest.approx(0.05)
    assert 0.9 < rates[peak] <= 1
    assert peak < 15
    assert np.all(np.diff(rates[:peak]) > 0)
    assert np.all(np.diff(rates[peak:]) <= 0)
    assert rates[100] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.1)


def loss_of(rows, *, seed=0, **changes):
    made = trainer(planted())
    batch = ranker_batch(
        made.examples,
        np.asarray(rows),
        retriever=made.retriever(),
        num_heads=2,
        config=TRAIN.model_copy(update=changes),
        step=Step(seed),
    )
    return ranker_loss(made.ranker.eval(), batch, config=made.model.ranker)


def test_the_rankers_loss_is_of_retrieved_candidates_and_reaches_its_weights():
    assert loss_of([40, 41]).item() == loss_of([40, 41]).item()
    assert loss_of([40, 41]).item() != loss_of([42, 43]).item()
    thinned = [loss_of([40, 41], seed=seed, num_candidates=6).item() for seed in range(3)]
    assert len(set(thinned)) == 3
    # With room for all candidates and all levels there is nothing to draw.
    whole = {"num_candidates": 1000, "level_dropout": 0.0}
    assert loss_of([40], **whole).item() == pytest.approx(loss_of([40], seed=9, **whole).item())
    loss_of([40, 41]).backward()
