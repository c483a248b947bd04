"""Weights of yesterday: found by item id and by category, refused where they cannot fit."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from models import evaluation, release
from models.catalogue import Catalogue
from models.checkpoints import SEAL, seal
from models.fitting import Splits, Trainer
from models.model import build
from models.warm_start import Origin, rows_of
from tests import worlds
from tests.models.small import CATALOGUE, MODEL, STAGE, TRAIN, feed_of, planted, trainer

SMALL = planted()
ONE = TRAIN.model_copy(
    update={name: STAGE.model_copy(update={"epochs": 2}) for name in ("retriever", "ranker")}
)


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory):
    """A training, and the release of it."""
    folder = tmp_path_factory.mktemp("yesterday")
    made = trainer(SMALL, ONE)
    made.fit(feed_of(made), best=folder)
    release.save(
        folder / "release",
        name="small",
        recommender=made.recommender(made.retriever()),
        model=MODEL,
        serving=worlds.SERVING,
        watermark_ms=0,
        metrics={},
        write_snapshot=lambda path: path.write_bytes(b""),
    )
    return made, folder / "release"


def begun(origin):
    return Trainer(
        SMALL.examples,
        Splits(SMALL.rows("train"), SMALL.rows("validate")),
        model=MODEL,
        serving=worlds.SERVING,
        train=ONE,
        origin=origin,
    )


def test_a_warm_start_validates_first_as_what_it_begins_with(yesterday, tmp_path):
    given, folder = yesterday
    made = begun(Origin.open(folder, MODEL))
    made.fit(feed_of(made), best=tmp_path)
    for stage in ("retriever", "ranker"):
        before = [each for each in given.progress.history if each["stage"] == stage]
        epochs = [each for each in made.progress.history if each["stage"] == stage]
        assert [each["epoch"] for each in epochs][:2] == [-1, 0]
        assert "loss" not in epochs[0]
        assert len(before) == 2
    wanted = evaluation.positives(given.examples.requests, given.chosen, given.target)
    top = evaluation.nearest(given.retriever(), given.examples, given.chosen, max(evaluation.CUTS))
    released = evaluation.list_metrics(top, wanted)
    first = made.progress.history[0]
    for name, values in released.items():
        assert first[f"validate_{name}"] == pytest.approx(values.mean()), name


def test_a_warm_start_that_was_cut_off_goes_on(yesterday, tmp_path):
    _, folder = yesterday
    checkpoint, best = tmp_path / "checkpoint", tmp_path / "best"
    best.mkdir()
    made = begun(Origin.open(folder, MODEL))

    def on_epoch(figures):
        if figures["stage"] == "retriever" and figures["epoch"] == -1:
            checkpoint.mkdir()
            made.save(checkpoint, best)

    made.fit(feed_of(made), best=best, on_epoch=on_epoch)
    again = begun(Origin.open(folder, MODEL))
    again.resume(checkpoint)
    again.fit(feed_of(again), best=best)
    for one, other in ((made.towers, again.towers), (made.ranker, again.ranker)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])


def other_catalogue():
    """Without two items, with two new ones first, one of them of a new kind."""
    table = CATALOGUE.table
    kept = table.filter(pa.array(np.isin(np.arange(len(table)), (3, 17), invert=True)))
    new = kept.slice(0, 2).to_pylist()
    for number, row in enumerate(new):
        row["item_id"] = f"new-{number}"
    new[1]["kind"] = "abacus"
    rows = pa.concat_tables([pa.Table.from_pylist(new, table.schema), kept])
    return Catalogue(rows, MODEL.catalogue)


def test_items_and_categories_are_found_by_what_they_are(yesterday):
    given, folder = yesterday
    catalogue = other_catalogue()
    torch.manual_seed(5)
    fresh = build(catalogue, MODEL)
    before = [{n: v.clone() for n, v in net.state_dict().items()} for net in fresh]
    origin = Origin.open(folder, MODEL)
    for stage, net in zip(("retriever", "ranker"), fresh, strict=True):
        origin.load(net, stage, catalogue)
    for old, net, was in zip((given.towers, given.ranker), fresh, before, strict=True):
        table = net.item.id.weight
        for place, item_id in enumerate(catalogue.item_ids, start=1):
            at = CATALOGUE.place_of(item_id)
            assert torch.equal(table[place], old.item.id.weight[at] if at else table[place] * 0)
        assert not table[1:3].any(), "new items say what their text and fields say"
        values, known = catalogue.category_values["kind"], CATALOGUE.category_values["kind"]
        for code, value in enumerate(values):
            row = net.item.fields[0].weight[code]
            at = known.index(value) if value in known else None
            expected = (
                was["item.fields.0.weight"][code] if at is None else old.item.fields[0].weight[at]
            )
            assert torch.equal(row, expected), value
        assert "abacus" in values
        for name, value in net.state_dict().items():
            if name not in rows_of(net, CATALOGUE, catalogue, stored=old.state_dict()):
                assert torch.equal(value, old.state_dict()[name])


def test_the_same_catalogue_gives_the_same_weights(yesterday):
    given, folder = yesterday
    made = begun(Origin.open(folder, MODEL))
    for name, value in made.towers.state_dict().items():
        assert torch.equal(value, given.towers.state_dict()[name])


def test_another_configuration_is_refused_by_its_sections(yesterday):
    _, folder = yesterday
    changes = {
        "features": MODEL.features.model_copy(update={"history": 4}),
        "ranker": MODEL.ranker.model_copy(update={"width": 4}),
    }
    with pytest.raises(ValueError, match=r"another configuration of features, ranker; restore it"):
        Origin.open(folder, MODEL.model_copy(update=changes))


def test_what_is_no_release_or_a_damaged_one_is_refused(yesterday, tmp_path):
    _, folder = yesterday
    with pytest.raises(ValueError, match=r"train.start_from: .* is neither a release nor a run"):
        Origin.open(tmp_path, MODEL)
    bad = tmp_path / "bad"
    for name in ("ranker.safetensors", "catalogue.parquet"):
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(folder, bad)
        (bad / name).write_bytes(b"no")
        with pytest.raises(ValueError, match=rf"{name} is missing or is not the file"):
            Origin.open(bad, MODEL)


def test_the_model_of_a_run_will_do(yesterday, tmp_path):
    _, folder = yesterday
    model = tmp_path / "run" / "model"
    shutil.copytree(folder, model)
    (model / release.MANIFEST).unlink()
    seal(model, {})
    assert (model / SEAL).is_file()
    for path in (model, model.parent):
        origin = Origin.open(path, MODEL)
        assert origin.folder == model
        assert len(origin.name) == 12
    config = json.loads((model / "config.json").read_text())
    config["model"]["target"] = "view"
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        Origin.open(model, MODEL)
    seal(model, {})
    with pytest.raises(ValueError, match=r"another configuration of target"):
        Origin.open(model, MODEL)
