"""From the lines of the data set to a served slate: every verb, on a slice, with tiny networks."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from configs.load import Document
from jobs import measuring
from jobs.evaluate import evaluate, evaluate_baselines, show
from jobs.prepared import Prepared
from jobs.release import release
from jobs.telling import RANKING, STALENESS, drawn
from jobs.trained import recommender_of
from jobs.training import examples_of, rows_of
from models import ablation, evaluation
from models import release as releases
from models.catalogue import Catalogue
from models.checkpoints import load_weights
from models.examples import Examples, Requests
from models.features import context_codes
from models.memory import fold, user_features, view
from models.model import build
from models.report import Compared, EvaluateConfig
from models.spread import spread
from serve.config import ServeConfig
from serve.pipeline import Pipeline
from serve.schemas import RecommendRequest
from serve.service import Service
from tests.jobs import retail

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@dataclass(frozen=True)
class Way:
    """A run that went the whole way."""

    document: Document
    tables: list[Compared]

    def file(self, name: str) -> Path:
        return self.document.folder / name

    def json(self, name: str) -> Any:
        return json.loads(self.file(name).read_text())


@pytest.fixture(scope="module")
def way(trained: Document) -> Way:
    tables = evaluate(trained)
    release(trained)
    return Way(trained, tables)


def test_every_step_leaves_what_the_next_one_reads(way: Way):
    ledger = way.json("prepared/manifest.json")["ledger"]
    assert min(ledger["requests"].values()) > 50
    assert {p.name for p in way.file("model").iterdir()} == {
        "model.json",
        "config.json",
        "catalogue.parquet",
        "retriever.safetensors",
        "ranker.safetensors",
        "seal.json",
    }
    assert {p.name for p in way.file("evaluation").iterdir()} == {
        "report.json",
        "report.md",
        "report.html",
        "ranking.svg",
        "ablation.svg",
        "staleness.svg",
        "slices.svg",
    }
    assert not [p for p in way.document.folder.iterdir() if ".tmp-" in p.name]


def test_the_model_says_what_it_is_and_how_it_came_to_be(way: Way):
    told = way.json("model/model.json")
    assert told["digest"] == way.document.model.digest()
    assert Document.model_validate(told["config"]) == way.document
    assert [(h["stage"], h["epoch"]) for h in told["history"]] == retail.EPOCHS
    losses = [h["loss"] for h in told["history"]]
    assert losses[1] < losses[0]
    assert losses[3] < losses[2]
    assert len(told["calibration"]) == 1
    assert np.isfinite(told["calibration"]).all()


def test_the_card_of_the_release_tells_the_evaluation(way: Way):
    card, told = way.file("release/MODEL_CARD.md").read_text(), way.json("model/model.json")
    for text in (told["run_id"], told["prepared"], told["catalogue"], way.document.source.path):
        assert text in card
    mean = way.tables[0].row(measuring.FULL)["ndcg@10"]
    assert f"| {measuring.FULL} |" in card
    assert f"{mean:.4f} [" in card
    assert "MODEL_CARD.md" in way.json("release/manifest.json")["files"]


def test_another_catalogue_takes_no_weights_of_this_one(way: Way):
    prepared = Prepared.open(way.file("prepared"), way.document)
    items = Catalogue(prepared.catalogue.table.slice(1), way.document.catalogue)
    examples = Examples(
        examples_of(prepared, way.document).requests,
        histories=prepared.histories,
        catalogue=items,
        features=way.document.model.features,
        memory=way.document.memory,
    )
    with pytest.raises(ValueError, match="was trained on another catalogue"):
        recommender_of(way.document, examples, until_ms=None)


def test_the_weights_kept_are_those_of_the_best_epoch(way: Way):
    """Measured again on validation they give the figures of the best epoch of each stage."""
    prepared = Prepared.open(way.file("prepared"), way.document)
    examples = examples_of(prepared, way.document)
    rows = evaluation.with_target(examples.requests, rows_of(prepared, "validate"), 0)
    first = int(examples.requests.as_of_ms[rows].min())  # what came later was not known
    recommender = recommender_of(way.document, examples, until_ms=first)
    wanted = evaluation.positives(examples.requests, rows, 0)
    history = way.json("model/model.json")["history"]
    tops = {
        "retriever": evaluation.nearest(recommender.retriever, examples, rows, 50),
        "ranker": evaluation.slates(evaluation.scored(recommender, examples, rows), 0),
    }
    for stage, top in tops.items():
        found = evaluation.list_metrics(top, wanted)["ndcg@10"].mean()
        best = max(h["validate_ndcg@10"] for h in history if h["stage"] == stage)
        assert found == pytest.approx(best, abs=1e-6)


def test_the_tables_hold_every_method_and_reading(way: Way):
    full, readings, stale, beyond = way.tables
    own = (measuring.FOLLOWERS, measuring.TOWERS, measuring.FULL)
    methods = (*measuring.baselines_of(way.document), *own)
    assert full.names == beyond.names == methods
    assert readings.names == (*ablation.READINGS, ablation.PLACEBO)
    assert stale.names == ("of the moment", "1d old", "3d old", "7d old", "14d old", "no memory")
    assert stale.row("of the moment") == readings.row("all")
    assert stale.row("no memory") == readings.row("none")
    for table in (full, readings, stale):
        for name, interval in zip(table.names, table.intervals, strict=True):
            assert np.isfinite(interval.mean).all(), name
            assert (interval.low <= interval.mean).all(), name
            assert (interval.mean <= interval.high).all(), name
            assert ((interval.mean >= 0) & (interval.mean <= 1)).all(), name
    # One model, measured once for each table.
    assert full.row(measuring.FULL).items() <= readings.row("all").items()


def test_the_report_says_the_same_in_json_and_markdown(way: Way):
    told, text = way.json("evaluation/report.json"), way.file("evaluation/report.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("| ---")
    ]
    for table, given in zip(way.tables, told["tables"], strict=True):
        headline = table.headline
        header = next(row for row in rows if f"{headline} less {table.reference}" in row)
        for name, method in given["methods"].items():
            row = dict(
                zip(
                    header,
                    rows[rows.index(header) + 1 :][list(given["methods"]).index(name)],
                    strict=True,
                )
            )
            assert row["method"] == name
            for metric, (mean, low, high) in method["mean_low_high"].items():
                assert mean == pytest.approx(table.row(name)[metric], abs=1e-6)
                shown = row[metric].split()[0]
                assert float(shown) == pytest.approx(mean, abs=1e-4)
                if metric == headline:
                    assert f"[{low:.4f}, {high:.4f}]" in row[metric]
    assert told["facts"]["model digest"] == way.document.model.digest()
    assert (
        told["facts"]["requests"]
        == way.json("prepared/manifest.json")["ledger"]["requests"]["test"]
    )
    assert f"* requests: {told['facts']['requests']}" in text
    assert "![ndcg@10 of each method with 95 % intervals](ranking.svg)" in text
    assert told["grids"][0]["title"] == "Slices"
    page = way.file("evaluation/report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 4
    assert STALENESS in page


def test_a_run_beside_stands_in_the_same_table(way: Way):
    """The run beside itself: its retriever's figures come twice."""
    beside = {"twin": str(way.document.folder)}
    config = way.document.evaluate.model_copy(update={"beside": beside})
    bench = measuring.Bench(way.document.model_copy(update={"evaluate": config}), "test")
    twin, own = bench.beside("twin"), bench.towers(measuring.TOWERS)
    assert twin.name == "twin"
    for metric, values in own.lists.items():
        assert twin.lists[metric].tolist() == values.tolist()
    assert twin.coverage == own.coverage


def test_a_run_of_other_requests_is_refused(way: Way, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(way.document.folder / "model", other / "model")
    shutil.copytree(way.document.folder / "prepared", other / "prepared")
    config = way.document.evaluate.model_copy(update={"beside": {"other": str(other)}})
    bench = measuring.Bench(way.document.model_copy(update={"evaluate": config}), "test")
    (path,) = other.glob("prepared/*/requests/00000.parquet")
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(ValueError, match=r"evaluate\.beside\.other: .* from other requests than"):
        bench.beside("other")


def test_baselines_need_no_training(way: Way, tmp_path: Path):
    document = way.document.model_copy(update={"runs": str(tmp_path)})
    shutil.copytree(way.document.folder / "prepared", document.folder / "prepared")
    (table,) = evaluate_baselines(document)
    names = measuring.baselines_of(way.document)
    assert table.names == names
    for name in names:
        assert table.row(name) == way.tables[0].row(name)


def test_seeds_are_told_with_their_spread(way: Way):
    """Another seed's report, as evaluating a run with it would have written it."""
    told = way.json("evaluation/report.json")
    told["facts"]["seed"] += 1
    found = spread({"a": way.json("evaluation/report.json"), "b": told}, title=RANKING)
    full = found.figures[measuring.FULL]
    assert full[0].tolist() == full[1].tolist()
    assert found.grid().rows[-1][0] == measuring.FULL


def test_a_bound_measures_whole_users_and_says_so(way: Way):
    whole = measuring.Bench(way.document, "test")
    bound = way.document.evaluate.model_copy(update={"max_requests": len(whole.rows) // 2})
    part = measuring.Bench(way.document.model_copy(update={"evaluate": bound}), "test")
    assert 0 < len(part.rows) <= len(whole.rows) // 2
    kept = np.isin(whole.asked.users, part.asked.users)
    assert part.rows.tolist() == whole.rows[kept].tolist()
    (name, *_) = measuring.baselines_of(way.document)
    found, every = part.baseline(name).lists["mrr"], whole.baseline(name).lists["mrr"]
    assert found.tolist() == every[kept].tolist()
    assert part.asked.num_requests == whole.asked.num_requests == len(whole.rows)
    assert f"{len(whole.rows):,} requests" in drawn(part.asked)


def test_the_window_of_recent_popularity_is_a_value(way: Way):
    names = []
    for window in ("7d", "1h"):
        config = EvaluateConfig.model_validate({"popularity_window": window})
        bench = measuring.Bench(way.document.model_copy(update={"evaluate": config}), "test")
        names.append(measuring.recent(config))
        found = bench.baseline(names[-1])
        assert (found.name, len(found.lists["mrr"])) == (names[-1], len(bench.rows))
    assert names == ["popularity, last 7d", "popularity, last 1h"]


def test_baselines_leave_out_what_was_seen_where_they_are_told_to(way: Way):
    def found(drop_seen: bool, name: str) -> list[float]:
        config = way.document.evaluate.model_copy(update={"drop_seen": drop_seen})
        bench = measuring.Bench(way.document.model_copy(update={"evaluate": config}), "test")
        figures: list[float] = bench.baseline(name).lists["mrr"].tolist()
        return figures

    assert found(True, measuring.POPULARITY) != found(False, measuring.POPULARITY)
    assert found(True, measuring.FREQUENCY) == found(False, measuring.FREQUENCY)


def test_the_tables_are_shown(way: Way, capsys: pytest.CaptureFixture[str]):
    for table in way.tables:
        show(table)
    shown = capsys.readouterr().out
    assert "Memory ablation: all together" in shown
    assert ablation.PLACEBO in shown


def history_of(path: Path) -> list[dict[str, Any]]:
    """The history rows of a W&B run file, which is framed as a log of LevelDB.

    A header of 7 bytes names the file; then come blocks of 32 KiB with chunks of checksum (4
    bytes), length (2) and kind (1: whole, 2: first, 3: middle, 4: last).
    """
    from wandb.proto import wandb_internal_pb2

    content, place, whole, found = path.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record.FromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                found.append(
                    {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                )
    return found


def test_the_figures_are_in_a_run_file_of_wandb(way: Way):
    training = way.json("training/training.json")
    (run,) = way.file("wandb").glob("offline-run-*")
    rows = history_of(run / f"run-{training['run_id']}.wandb")
    for figures in way.json("model/model.json")["history"]:
        stage, epoch = figures["stage"], figures["epoch"]
        (row,) = [row for row in rows if row.get(f"{stage}/epoch") == epoch]
        assert row[f"{stage}/loss"] == figures["loss"]
        assert row[f"{stage}/validate_ndcg@10"] == figures["validate_ndcg@10"]


def asked_at(examples: Examples, document: Document, moment: int, country: str) -> Examples:
    """The same examples with one request of every user at a moment, outside of any session."""
    num, memory = len(examples.histories.users), document.memory
    seen = [examples.histories.seen(user, moment) for user in range(num)]
    long = [user_features(view(fold(s, memory.state), now_ms=moment, spec=memory)) for s in seen]
    requests = Requests(
        user=np.arange(num),
        as_of_ms=np.full(num, moment),
        session=np.zeros(num, np.uint64),
        long=np.stack(long),
        context=context_codes([[country] * num], document.model.features, num=num),
        outcomes=np.zeros(0, np.int64),
        labels=np.zeros(0, np.uint8),
        offsets=np.zeros(num + 1, np.int64),
    )
    return Examples(
        requests,
        histories=examples.histories,
        catalogue=examples.catalogue,
        features=examples.features,
        memory=examples.memory,
    )


@pytest.fixture
def service(way: Way, tmp_path: Path) -> Iterator[Service]:
    service = Service.open(
        ServeConfig.model_validate(
            {
                "release": way.file("release"),
                "store": {"path": tmp_path / "store", "sync": False},
                "clock": "release",
                "budgets": {"memory": "60s", "rank": "60s"},
            }
        )
    )
    yield service
    service.close()


def test_the_service_answers_as_the_batch_does(way: Way, service: Service):
    """Batch = online for the whole model: memory, retrieval, ranking and calibration."""
    moment, country = service.release.manifest.watermark_ms + 1, "France"
    pipeline = Pipeline(
        service.release,
        store=service.opened.store,
        clock=lambda: moment,
        config=service.config,
        secret=service.opened.secret,
    )
    prepared = Prepared.open(way.file("prepared"), way.document)
    examples = asked_at(examples_of(prepared, way.document), way.document, moment, country)
    recommender = recommender_of(way.document, examples, until_ms=None)
    users = examples.histories.users.to_pylist()
    rows = np.arange(0, len(users), 8)
    batch = evaluation.scored(recommender, examples, rows)
    order = evaluation.slates(batch, 0)
    chances = recommender.calibration[0].apply(batch.logits[..., 0])
    for number, row in enumerate(rows):
        asked = RecommendRequest(user_id=users[row], context={"country": country}, page_size=100)
        reply = pipeline.recommend(asked)
        assert reply["degraded"] == []
        scores = {item["item_id"]: item["score"] for item in reply["items"]}
        places = batch.places[number]
        ids = {place: examples.catalogue.item_ids[place - 1] for place in places if place}
        expected = {
            ids[place]: chance
            for place, chance in zip(places, chances[number], strict=True)
            if place
        }
        assert scores == pytest.approx(expected, rel=1e-4)
        # Scores that agree to the sixth digit may change places.
        told = [expected[item["item_id"]] for item in reply["items"]]
        assert told == pytest.approx(sorted(told, reverse=True), rel=1e-5)
        best = [ids[place] for place in order[number] if place]
        assert told == pytest.approx([expected[item] for item in best], rel=1e-5)
    pipeline.close()


def test_the_release_holds_the_evaluated_model(way: Way):
    loaded = releases.load(way.file("release"))
    metrics = way.tables[0].row(measuring.FULL)
    assert loaded.manifest.metrics["test ndcg@10"] == pytest.approx(metrics["ndcg@10"], abs=1e-6)
    assert loaded.model == way.document.model
    for name, net in zip(
        ("retriever", "ranker"), build(loaded.recommender.catalogue, loaded.model), strict=True
    ):
        load_weights(net, way.file(f"model/{name}.safetensors"))
        kept = {"retriever": loaded.recommender.retriever.net, "ranker": loaded.recommender.ranker}
        assert all(torch.equal(v, kept[name].state_dict()[k]) for k, v in net.state_dict().items())


def test_a_flipped_byte_in_the_release_is_refused(way: Way, tmp_path: Path):
    copy = Path(shutil.copytree(way.file("release"), tmp_path / "release"))
    content = bytearray((copy / "memory.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "memory.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"memory\.parquet is not the file that was released"):
        releases.load(copy)


def test_figures_of_other_weights_are_not_released(way: Way, tmp_path: Path):
    """An evaluation of an earlier training says nothing of the weights that are there now."""
    shutil.copytree(way.document.folder, tmp_path / way.document.name)
    path = tmp_path / way.document.name / "model/model.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "made_at": "2000-01-01T00:00:00+00:00"}))
    moved = way.document.model_copy(update={"runs": str(tmp_path)})
    assert release(moved).metrics == {}
