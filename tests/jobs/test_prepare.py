"""prepare from files to the folder that training reads, on a slice of the bundled data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from configs.load import Document, load
from jobs import console
from jobs.prepare import main, prepare
from jobs.prepared import Prepared, replacing
from jobs.preparing.ledger import EMPTY, grown
from models.memory import decode, fold, user_features, view
from models.requests import SPLITS, request_schema

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "jobs/datasets/online_retail/online_retail.parquet"
CONFIG = ROOT / "configs/online_retail.yaml"

# Every test here shares one cluster: to start one takes longer than all of them.
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def lines():
    """About 60 customers, and every 300th line without one."""
    whole = pl.read_parquet(BUNDLED)
    some = whole.filter((pl.col("CustomerID") % 71 == 0).fill_null(False))
    nobody = whole.filter(pl.col("CustomerID").is_null()).gather_every(300)
    return pl.concat([some, nobody])


def retail(folder, path, *overrides):
    sets = [f"runs={folder}/runs", f"source.path={path}", "prepare.max_quarantine_share=0.9"]
    return load(CONFIG, [*sets, *overrides])


@pytest.fixture(scope="module")
def made(lines, tmp_path_factory):
    """The slice, prepared from one Parquet file."""
    folder = tmp_path_factory.mktemp("made")
    lines.write_parquet(folder / "lines.parquet")
    document = retail(folder, folder / "lines.parquet")
    return document, prepare(document), Prepared.open(document.folder / "prepared", document)


def comparable(prepared):
    """Everything that must not depend on how the rows came in, in one order."""
    histories = prepared.histories
    places = {user: place for place, user in enumerate(histories.users.to_pylist())}
    users = {}
    for user, state in sorted(prepared.states()):
        mine = slice(*histories.offsets[places[user] : places[user] + 2])
        arrived = histories.arrived[mine].tobytes()
        users[user] = state, histories.interactions[mine].tobytes(), arrived
    requests = prepared.requests.combine_chunks()
    return [users, requests, prepared.catalogue.table, prepared.ledger]


def test_the_ledger_adds_up(made, lines):
    _, ledger, prepared = made
    wrong = sum(ledger["quarantined"].values())
    assert ledger["read"] == len(lines) == ledger["kept"] + ledger["duplicates"] + wrong
    assert ledger["quarantined"]["no customer"] == lines["CustomerID"].null_count()
    assert ledger["duplicates"] > 0
    assert ledger == prepared.ledger
    assert sum(ledger["requests"].values()) == len(prepared.requests)
    assert min(ledger["requests"].values()) > 0
    quarantine = prepared.quarantine
    assert len(quarantine) == wrong
    for row in quarantine.slice(0, 5).to_pylist():
        told = json.loads(row["row"])
        assert told.keys() == set(lines.columns)
        origin = pl.read_parquet(row["file"]).row(row["number"], named=True)
        assert told["StockCode"] == origin["StockCode"]
        assert told["Quantity"] == str(origin["Quantity"])


def test_what_is_read_back_is_what_was_written(made):
    document, ledger, prepared = made
    histories, requests = prepared.histories, prepared.requests
    assert len(histories.users) == ledger["users"]
    assert len(histories.interactions) == ledger["kept"]
    assert requests.schema.equals(request_schema(document.requests, document.memory))
    assert requests["as_of"].to_pylist() == sorted(requests["as_of"].to_pylist())
    assert len(prepared.catalogue) == ledger["items"] + 1
    assert (prepared.catalogue.places(histories.interactions["item"]) > 0).all()
    interests = prepared.catalogue.interests(histories.interactions["item"])
    assert (interests == histories.interactions["interest"]).all()


def test_states_and_features_are_those_of_the_histories(made):
    document, _, prepared = made
    histories, spec = prepared.histories, document.memory
    place = {user: n for n, user in enumerate(histories.users.to_pylist())}
    for user, blob in prepared.states():
        low, high = histories.offsets[place[user] : place[user] + 2]
        whole = fold(histories.interactions[low:high], spec.state)
        assert decode(blob, spec.state) == whole
    for request in prepared.requests.to_pylist()[::20]:
        seen = histories.seen(place[request["user_id"]], request["as_of"])
        now = user_features(view(fold(seen, spec.state), now_ms=request["as_of"], spec=spec))
        assert np.asarray(request["user_features"], np.float32).tobytes() == now.tobytes()


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_every_format_gives_the_same(made, lines, tmp_path, suffix):
    path = tmp_path / f"lines.{suffix}"
    lines.write_csv(path) if suffix == "csv" else lines.write_ndjson(path)
    document = retail(tmp_path, path)
    prepare(document)
    found = comparable(Prepared.open(document.folder / "prepared", document))
    assert found == comparable(made[2])


def test_files_order_and_partitions_do_not_matter(made, lines, tmp_path):
    shuffled = lines.sample(fraction=1.0, shuffle=True, seed=1)
    (tmp_path / "log").mkdir()
    for part in range(3):
        shuffled.gather_every(3, part).write_parquet(tmp_path / f"log/{part}.parquet")
    document = retail(tmp_path, tmp_path / "log", "prepare.num_partitions=2")
    prepare(document)
    found = comparable(Prepared.open(document.folder / "prepared", document))
    assert found == comparable(made[2])


def test_a_mapping_and_a_table_of_items(tmp_path):
    hour = 3_600
    log = [
        {"u": 1, "i": 10 + n % 3, "t": 86_400 * 365 + n * hour, "r": 1 + n % 5} for n in range(50)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join([*map(json.dumps, log), "{broken"]))
    (tmp_path / "items.csv").write_text("id,name,kind\n10,ten,x\n11,eleven,y\n99,never,\n")
    document = Document.model_validate(
        yaml.safe_load(f"""
        name: mapped
        runs: {tmp_path}/runs
        source:
          path: {tmp_path}/log.jsonl
          columns: {{user_id: u, item_id: i, ts: t, action: r}}
          ts_unit: s
          actions: {{5: like, 4: like, 3: view, 2: dislike, 1: dislike}}
        items: {{path: {tmp_path}/items.csv, columns: {{item_id: id, text: name, kind: kind}}}}
        catalogue: {{categories: [kind]}}
        requests:
          per: event
          labels: [like]
          validate_from: 1971-01-02
          test_from: 1971-01-02T12:00:00
        """)
    )
    ledger = prepare(document)
    assert ledger["quarantined"] == {"not a JSON object": 1}
    assert (ledger["kept"], ledger["users"], ledger["items"]) == (50, 1, 4)
    prepared = Prepared.open(document.folder / "prepared", document)
    assert sum(ledger["requests"].values()) == 20
    assert dict(zip(prepared.catalogue.item_ids, prepared.catalogue.texts[1:], strict=True)) == {
        "10": "ten",
        "11": "eleven",
        "12": "",
        "99": "never",
    }


def test_a_second_run_takes_the_place_of_the_first(made):
    document, ledger, _ = made
    before = comparable(Prepared.open(document.folder / "prepared", document))
    assert prepare(document) == ledger
    assert comparable(Prepared.open(document.folder / "prepared", document)) == before
    assert [path.name for path in document.folder.iterdir()] == ["prepared"]


GOOD_CSV = "who,what,when\n" + "".join(f"u{n % 3},i{n % 5},2020-01-{1 + n}\n" for n in range(30))
WRONG = {
    "a missing file": (None, [], "source.path: there is nothing at"),
    "no row at all": ("who,what,when\n", [], "is empty, there is not one row"),
    "an empty file": ("", [], "log.csv is empty"),
    "a missing column": (GOOD_CSV, ["source.columns.ts=at"], "source.columns.ts: there is no colu"),
    "no good row": (GOOD_CSV, ["source.columns.ts=what"], "not one of 30 rows"),
    "an unknown action": (GOOD_CSV, ["source.action=stare"], "not in the vocabulary"),
    "many wrong rows": (
        GOOD_CSV + "u1,i1,soon\n" * 10,
        [],
        "25.0% of the rows are wrong (no or unparsable ts: 10), more than",
    ),
    "an unknown key": (GOOD_CSV, ["source.colums=1"], "--set source.colums: unknown key"),
    "an unknown adapter": (GOOD_CSV, ["source.adapter=shop"], "no module jobs.datasets.shop"),
    "another data set's adapter": (GOOD_CSV, ["source.adapter=online_retail"], "no column Invoice"),
    "a split without requests": (
        GOOD_CSV,
        ["requests.test_from=2021-01-01"],
        "none in test. Events go from 2020-01-01 to 2020-01-30: try requests.validate_from=2020-01",
    ),
    "nobody to leave one out of": (
        "who,what,when\n" + "".join(f"u{n},i{n},2020-01-0{n}\n" for n in range(1, 9)),
        ["requests={labels: [purchase], per: event, split: leave_one_out}"],
        "none in validate, test. No user of 8 has 3 events 'purchase' with an item",
    ),
    "ragged lines": (GOOD_CSV + "u1\n" * 9, [], "23.1% of the rows are wrong (1 columns instead"),
}


@pytest.fixture
def simple(tmp_path):
    """A function that writes a log and its document, and gives the document's path."""

    def write(log):
        if log is not None:
            (tmp_path / "log.csv").write_text(log)
        (tmp_path / "run.yaml").write_text(f"""
        name: simple
        runs: {tmp_path}/runs
        source:
          path: {tmp_path}/log.csv
          columns: {{user_id: who, item_id: what, ts: when}}
          action: purchase
        requests: {{labels: [purchase], validate_from: 2020-01-20, test_from: 2020-01-25}}
        """)
        return tmp_path / "run.yaml"

    return write


def code_of(*args):
    with pytest.raises(SystemExit) as caught:
        console.run(main, [str(arg) for arg in args])
    return caught.value.code


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_told_in_a_line_and_leaves_nothing(simple, capfd, case):
    log, overrides, message = WRONG[case]
    config = simple(log)
    assert code_of("--config", config, *(f"--set={text}" for text in overrides)) == 2
    told = capfd.readouterr().err
    assert message in told
    assert told.startswith("error: ")
    assert "Traceback" not in told
    assert not list(config.parent.glob("runs/simple/*"))


def test_a_ragged_line_is_set_aside_with_its_place(simple):
    config = simple(GOOD_CSV + "u1\n")
    assert code_of("--config", config) == 0
    document = load(config)
    [row] = Prepared.open(document.folder / "prepared", document).quarantine.to_pylist()
    assert row["file"].endswith("log.csv")
    assert (row["number"], row["row"]) == (30, "u1")
    assert row["reason"] == "1 columns instead of 3"


def test_what_was_there_survives_a_run_that_fails(simple, capfd):
    config = simple(GOOD_CSV)
    assert code_of("--config", config) == 0
    shown = capfd.readouterr().out
    assert "kept" in shown
    document = load(config)
    before = Prepared.open(document.folder / "prepared", document).manifest
    assert code_of("--config", config, "--set", "source.columns.ts=what") == 2
    assert Prepared.open(document.folder / "prepared", document).manifest == before


def test_data_of_another_configuration_is_refused(made):
    document, _, prepared = made
    other = document.model_copy(
        update={"memory": document.memory.model_copy(update={"state": load(CONFIG).memory.state})}
    )
    assert Prepared.open(prepared.folder, other)
    other = load(CONFIG, ["memory.view.fast=1d", "prepare.num_partitions=9"])
    with pytest.raises(ValueError, match=r"another configuration of source, memory: run `python"):
        Prepared.open(prepared.folder, other)


def test_data_that_is_incomplete_or_unknown_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not there: run `python"):
        Prepared.open(tmp_path / "none")
    with pytest.raises(ValueError, match="is incomplete"):
        Prepared.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="is of format 99, not 2"):
        Prepared.open(tmp_path)


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    with replacing(tmp_path / "out") as fresh:
        (fresh / "a").write_text("1")

    def interrupted():
        with replacing(tmp_path / "out") as fresh:
            (fresh / "b").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]


def test_a_lost_row_is_our_fault_and_said():
    chunk = {"good": 7, "wrong": 1, "reasons": {"no customer": 1}}
    chunk |= dict.fromkeys(("first_ms", "last_ms", "arrived_ms"), 0)
    part = dict.fromkeys(("rows", "duplicates", "users", "num", "late", *SPLITS), 0)
    with pytest.raises(RuntimeError, match="rows were lost"):
        grown(EMPTY, [chunk], [part], 3)
    part |= {"rows": 7, "num": 5, "duplicates": 1}
    with pytest.raises(RuntimeError, match="read 8, kept 5, duplicates 1, quarantined 1"):
        grown(EMPTY, [chunk], [part], 3)
    assert grown(EMPTY, [chunk], [part | {"num": 6}], 3)["kept"] == 6
