"""Who has a row in an embedding table, alone or with others; and that parts make the same whole."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from models.catalogue import Catalogue
from models.checkpoints import load_weights, save_weights
from models.model import build
from models.tables import admitted
from models.training import optimizers, take
from models.warm_start import rows_of
from tests.models.parts import STEPS, WORKERS, asked, losses, tables
from tests.models.small import CATALOGUE, MODEL, STAGE, batch_of, planted, trainer

ROOT = Path(__file__).parents[2]
SMALL = planted()
LEAST, OVERFLOW = 40, 3
"""About half of the items occur less often."""
FEATURES = MODEL.features.model_copy(update={"id_min_count": LEAST, "id_overflow": OVERFLOW})
MODEL_OF_FEW = MODEL.model_copy(update={"features": FEATURES})


def counts_of(made):
    """How often each place occurs in what trains."""
    outcomes = made.examples.requests.pairs(made.splits.train)[1]
    met = [*made.examples.places[made.threads.tokens].tolist(), *outcomes.tolist()]
    return np.bincount(met, minlength=len(CATALOGUE))


def few():
    """A trainer in which only items that occur often have a row of their own."""
    return trainer(SMALL, features=FEATURES)


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    least=st.integers(1, 9),
    overflow=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_an_item_has_a_row_of_its_own_or_that_of_its_hash_or_none(counts, least, overflow, seed):
    keys = np.random.default_rng(seed).integers(1, 2**63, len(counts), dtype=np.uint64)
    row = admitted(np.asarray(counts), keys, least=least, overflow=overflow)
    own = [place for place, count in enumerate(counts) if place and count >= least]
    assert row[own].tolist() == list(range(1 + overflow, 1 + overflow + len(own)))
    for place, count in enumerate(counts):
        if place == 0 or count == 0 or (count < least and not overflow):
            assert row[place] == 0
        elif count < least:
            assert row[place] == 1 + int(keys[place]) % overflow


def test_a_table_has_as_many_rows_as_items_that_occur_often():
    made = few()
    counts = counts_of(made)
    often = int((counts[1:] >= LEAST).sum())
    assert 3 < often < (counts[1:] > 0).sum(), "or this would show nothing"
    for net in (made.towers, made.ranker):
        assert len(net.item.id.weight) == often + OVERFLOW + 1
        assert net.item.id.row.shape == (len(CATALOGUE),)


def test_rare_items_say_the_same_as_those_of_their_hash_and_no_others():
    made = few()
    counts, table = counts_of(made), made.towers.item.id
    said = table(torch.arange(len(CATALOGUE)))
    rare = [place for place in range(1, len(CATALOGUE)) if 0 < counts[place] < LEAST]
    kinds = {place: int(CATALOGUE.keys[place]) % OVERFLOW for place in rare}
    assert len(rare) > len(set(kinds.values())) > 1
    for place in rare:
        same = {n for n in range(len(CATALOGUE)) if torch.equal(said[n], said[place])}
        assert same == {n for n in rare if kinds[n] == kinds[place]}


def test_an_item_that_training_never_met_says_nothing():
    counts = np.full(len(CATALOGUE), LEAST)
    counts[[4, 9]] = 0
    net = build(CATALOGUE, MODEL_OF_FEW)[0]
    net.item.id.admit(counts, CATALOGUE.keys)
    net.item.begin(torch.arange(1, len(CATALOGUE)))
    said = net.item.id(torch.arange(len(CATALOGUE)))
    assert np.flatnonzero(~said.any(1)).tolist() == [0, 4, 9]
    said.sum().backward()
    assert 0 not in net.item.id.weight.grad.coalesce().indices(), "and nothing can change that"


def test_by_default_every_item_of_the_catalogue_has_a_row():
    net = trainer(SMALL).towers
    assert net.item.id.row is None
    assert len(net.item.id.weight) == len(CATALOGUE)
    assert "item.id.row" not in net.state_dict()


def test_a_step_touches_only_the_rows_of_what_occurred():
    net = few().towers
    tools = optimizers(net, STAGE)
    batch = batch_of(SMALL.examples, [40, 41], negatives=[2, 5])
    before = net.item.id.weight.detach().clone()
    take(net, net(batch), tools)
    places = {*batch.memories.item.flatten().tolist(), *batch.positives.tolist(), 2, 5}
    rows = set(net.item.id.row[list(places)].tolist()) - {0}
    moved = (net.item.id.weight != before).any(1).nonzero().flatten().tolist()
    assert net.item.id.weight.grad.is_sparse
    assert set(moved) == rows
    assert len(rows) < len(before) - 1


def test_a_network_that_is_built_anew_reads_how_many_rows_there_are(tmp_path):
    made = few()
    for number, net in enumerate((made.towers, made.ranker)):
        torch.nn.init.normal_(net.item.id.weight)
        save_weights(net, tmp_path / "net")
        other = build(CATALOGUE, MODEL_OF_FEW)[number]
        assert len(other.item.id.weight) == 1 + OVERFLOW
        load_weights(other, tmp_path / "net")
        places = torch.arange(len(CATALOGUE))
        assert torch.equal(other.eval().item(places), net.eval().item(places))


@pytest.mark.parametrize("row", [-1, 99])
def test_a_file_whose_items_have_rows_that_are_not_there_is_refused(tmp_path, row):
    made = few()
    save_weights(made.towers, tmp_path / "net")
    stored = load_file(tmp_path / "net")
    stored["item.id.row"][3] = row
    save_file(stored, tmp_path / "net")
    with pytest.raises(ValueError, match="do not fit"):
        load_weights(build(CATALOGUE, MODEL_OF_FEW)[0], tmp_path / "net")


def test_a_warm_start_finds_rows_by_item():
    old = few().towers.item.id
    table = CATALOGUE.table.slice(0, len(CATALOGUE) - 3).to_pylist()[::-1]
    table.insert(0, {**table[0], "item_id": "new"})
    catalogue = Catalogue(
        CATALOGUE.table.from_pylist(table, CATALOGUE.table.schema), MODEL.catalogue
    )
    rare = int(np.flatnonzero((old.row > 0) & (old.row <= OVERFLOW))[0])
    counts = np.zeros(len(catalogue), int)
    now = catalogue.place_of(CATALOGUE.item_ids[rare - 1])
    lasting = [n for n in range(2, len(catalogue)) if n != now][:6]
    counts[[1, now, *lasting]] = LEAST  # a new item, one that was rare, and six of any kind
    net = build(catalogue, MODEL_OF_FEW)[0]
    net.item.id.admit(counts, catalogue.keys)
    stored = {"item.id.row": old.row}
    found = rows_of(net, CATALOGUE, catalogue, stored=stored)["item.id.weight"]
    assert found[: 1 + OVERFLOW].tolist() == [0, 1, 2, 3], "shared rows are shared as before"
    row = net.item.id.row
    assert found[row[1]] == -1, "a new item begins as ever"
    assert found[row[now]] == old.row[rare], "who shared a row goes on from it"
    for place in lasting:
        was = old.row[CATALOGUE.place_of(catalogue.item_ids[place - 1])]
        assert found[row[place]] == (was or -1)


@pytest.mark.slow
def test_parts_of_tables_learn_what_whole_ones_learn(tmp_path):
    command = [sys.executable, "-m", "tests.models.parts", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    net = tables()
    tool = torch.optim.SparseAdam(net.parameters(), lr=0.1)
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORKERS)]
    for step in range(STEPS):
        mine = torch.stack([losses(net, asked(step, rank)) for rank in range(WORKERS)])
        np.testing.assert_allclose([one["losses"][step] for one in told], mine.tolist(), rtol=1e-5)
        tool.zero_grad()
        mine.mean().backward()
        tool.step()
    for rank in range(WORKERS):
        found = load_file(tmp_path / f"{rank}.safetensors")
        for name, value in net.state_dict().items():
            assert found[name].shape == value.shape
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    assert told[0]["held"] == dict.fromkeys(net, 4)
    assert told[1]["held"] == dict.fromkeys(net, 3)
    assert [one["joined"] for one in told] == [True, True]
