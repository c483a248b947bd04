"""New files are added to what is prepared, and the result is that of building everything anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from configs.load import Document
from jobs.prepare import prepare
from jobs.prepared import Prepared
from jobs.preparing.inputs import find
from jobs.preparing.plan import plan, working
from models.stores.tombstones import user_key

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

DAY_0 = datetime(2026, 1, 1, tzinfo=UTC)
ACTIONS = ("impression", "click", "purchase", "dismiss", "state")


def day(number: int, *, seed: int = 0, num: int = 150) -> pl.DataFrame:
    """One day's file: most events of that day, some of days before that came late, some twice."""
    draw = np.random.default_rng([seed, number])
    users = draw.integers(0, 12, num) + draw.integers(0, 2) * number
    late = draw.random(num) < 0.08
    ts = number * 86_400 + draw.integers(0, 86_400, num) - late * draw.integers(0, 200_000, num)
    ts = np.maximum(ts, 0)
    wait = np.where(late, draw.integers(0, 100_000, num), draw.integers(0, 30, num))
    action = draw.choice(ACTIONS, num, p=[0.4, 0.4, 0.1, 0.05, 0.05])
    state = action == "state"
    rows = [
        {
            "event_id": f"{number}-{n // (1 + (n % 17 == 0))}",
            "user_id": f"u{users[n]}",
            "item_id": None if state[n] else f"i{draw.integers(0, 20)}",
            "action": str(action[n]),
            "ts": DAY_0 + timedelta(seconds=int(ts[n])),
            "arrived_at": DAY_0 + timedelta(seconds=int(ts[n] + wait[n])),
            "session_id": f"s{users[n]}-{int(ts[n]) // 40_000}" if n % 3 else None,
            "request_id": f"r{users[n]}-{int(ts[n]) // 20_000}" if n % 5 else None,
            "position": None if state[n] else int(draw.integers(0, 9)),
            "propensity": 0.5 if n % 2 else None,
            "slot": "rate" if state[n] else None,
            "fact": json.dumps(int(draw.integers(0, 50))) if state[n] else None,
            "city": "Bonn" if n % 4 else None,
        }
        for n in range(num)
    ]
    again = day(number - 1, seed=seed, num=num).head(9) if number else None  # sent twice
    frame = pl.DataFrame(rows, schema_overrides={"fact": pl.String, "slot": pl.String})
    return frame if again is None else pl.concat([frame, again])


def document(folder: Path, log: Path, **requests) -> Document:
    return Document.model_validate(
        {
            "name": "days",
            "runs": str(folder / "runs"),
            "source": {"path": str(log), "columns": {"context_city": "city"}},
            "memory": {"view": {"actions": ["click", "purchase"]}},
            "requests": {
                "labels": ["click", "purchase"],
                "validate_from": "2026-01-03",
                "test_from": "2026-01-04",
                "context": ["city"],
                **requests,
            },
            "prepare": {"num_partitions": 3},
        }
    )


def write_days(log: Path, days: range, **given) -> None:
    for number in days:
        (log / f"day={number}").mkdir(parents=True)
        day(number, **given).write_parquet(log / f"day={number}" / "events.parquet")


def content(made: Document) -> dict[str, object]:
    """All that prepared data says, whatever generations it lies in."""
    prepared = Prepared.open(made.folder / "prepared", made)
    histories = prepared.histories
    order = np.argsort(np.asarray(histories.users))
    events = [
        histories.interactions[slice(*histories.offsets[u : u + 2])].tobytes()
        + histories.arrived[slice(*histories.offsets[u : u + 2])].tobytes()
        for u in order
    ]
    return {
        "users": np.asarray(histories.users)[order].tolist(),
        "events": events,
        "states": sorted(prepared.states()),
        "requests": list(map(repr, prepared.requests.to_pylist())),  # nan is nan
        "items": prepared.catalogue.table.to_pylist(),
        "ledger": prepared.ledger,
        "quarantine": sorted(map(repr, prepared.quarantine.drop(["file"]).to_pylist())),
    }


def generations(made: Document) -> list[str]:
    return Prepared.open(made.folder / "prepared", made).manifest["generations"]


@pytest.mark.parametrize("per", ["session", "event", "request"])
def test_day_by_day_gives_what_all_at_once_gives(tmp_path, per):
    log = tmp_path / "log"
    write_days(log, range(4))
    daily = document(tmp_path / "daily", log, per=per)
    prepare(daily)
    before = {
        path: path.stat().st_mtime_ns
        for path in daily.folder.rglob("histories/*")
        if path.is_file()
    }
    for number in (4, 5):
        write_days(log, range(number, number + 1))
        prepare(daily)
    once = document(tmp_path / "once", log, per=per)
    prepare(once)
    assert content(daily) == content(once)
    assert len(generations(daily)) == 3
    assert len(generations(once)) == 1
    assert before
    assert before == {path: path.stat().st_mtime_ns for path in before}, "the archive was rewritten"
    ledger = Prepared.open(daily.folder / "prepared").ledger
    assert ledger["duplicates"] > 0 < ledger["late"]
    wrong = sum(ledger["quarantined"].values())
    assert ledger["read"] == ledger["kept"] + ledger["duplicates"] + wrong


def test_a_day_that_came_after_a_later_one_is_added_too(tmp_path):
    log = tmp_path / "log"
    write_days(log, range(4))
    write_days(log, range(5, 6))
    daily = document(tmp_path / "daily", log)
    prepare(daily)
    write_days(log, range(4, 5))
    prepare(daily)
    once = document(tmp_path / "once", log)
    prepare(once)
    assert content(daily) == content(once)


def test_nothing_new_is_told_and_changes_nothing(tmp_path, capfd):
    log = tmp_path / "log"
    write_days(log, range(4))
    made = document(tmp_path, log)
    ledger = prepare(made)
    manifest = (made.folder / "prepared/manifest.json").read_bytes()
    assert prepare(made) == ledger
    assert "nothing new" in capfd.readouterr().out
    assert (made.folder / "prepared/manifest.json").read_bytes() == manifest


def test_many_generations_become_one(tmp_path):
    log = tmp_path / "log"
    write_days(log, range(4))
    made = document(tmp_path, log)
    made = made.model_copy(
        update={"prepare": made.prepare.model_copy(update={"max_generations": 2})}
    )
    prepare(made)
    found = []
    for number in (4, 5, 6):
        write_days(log, range(number, number + 1))
        prepare(made)
        found.append(len(generations(made)))
    assert found == [2, 1, 2]
    folders = {path.name for path in (made.folder / "prepared").iterdir() if path.is_dir()}
    assert folders == set(generations(made))
    once = document(tmp_path / "once", log)
    prepare(once)
    assert content(made) == content(once)


def test_what_cannot_be_built_upon_is_built_anew_and_said(tmp_path, capfd):
    log = tmp_path / "log"
    write_days(log, range(4))
    made = document(tmp_path, log)
    prepare(made)
    for change, said in [
        (lambda: day(1, seed=7).write_parquet(log / "day=1" / "events.parquet"), "1 piece"),
        (lambda: (log / "day=0" / "events.parquet").unlink(), "changed or are gone"),
    ]:
        change()
        prepare(made)
        assert said in capfd.readouterr().out
        assert len(generations(made)) == 1
    other = document(tmp_path, log, per="event")
    prepare(other)
    assert "the configuration of requests has changed" in capfd.readouterr().out
    once = document(tmp_path / "once", log, per="event")
    prepare(once)
    assert content(other) == content(once)


def test_an_item_that_counts_for_another_interest_has_everything_built_anew(tmp_path, capfd):
    log = tmp_path / "log"
    write_days(log, range(4))
    items = tmp_path / "items.csv"
    items.write_text("item_id,kind\n" + "".join(f"i{n},{'ab'[n % 2]}\n" for n in range(20)))

    def of(folder):
        found = document(folder, log).model_dump()
        found["items"] = {"path": str(items), "columns": {"item_id": "item_id", "kind": "kind"}}
        found["catalogue"]["categories"] = ["kind"]
        return Document.model_validate(found)

    prepare(of(tmp_path))
    write_days(log, range(4, 5))
    items.write_text(items.read_text() + "i77,c\n")
    prepare(of(tmp_path))
    assert len(generations(of(tmp_path))) == 2
    items.write_text(items.read_text().replace("i3,b", "i3,zz"))
    prepare(of(tmp_path))
    assert "1 item(s) now count for another interest" in capfd.readouterr().out
    prepare(of(tmp_path / "once"))
    assert content(of(tmp_path)) == content(of(tmp_path / "once"))


def test_outcomes_have_a_window_and_the_young_are_no_examples_yet(tmp_path):
    log = tmp_path / "log"
    write_days(log, range(4))
    made = document(tmp_path, log, outcome_window="6h")
    prepare(made)
    last = datetime.fromisoformat(Prepared.open(made.folder / "prepared").ledger["last_arrived"])
    ripe = Prepared.open(made.folder / "prepared").requests
    youngest = max(ripe["as_of"].to_pylist())
    assert youngest + 6 * 3_600_000 <= last.timestamp() * 1000
    write_days(log, range(4, 5))
    prepare(made)
    once = document(tmp_path / "once", log, outcome_window="6h")
    prepare(once)
    assert content(made) == content(once)
    assert max(Prepared.open(made.folder / "prepared").requests["as_of"].to_pylist()) > youngest


def test_a_day_that_is_all_wrong_is_refused_and_the_archive_stays(tmp_path):
    log = tmp_path / "log"
    write_days(log, range(4))
    made = document(tmp_path, log)
    prepare(made)
    before = content(made)
    (log / "day=4").mkdir()
    bad = day(4, num=20).with_columns(action=pl.lit("stare"))
    bad.write_parquet(log / "day=4" / "events.parquet")
    with pytest.raises(ValueError, match=r"not one of \d+ rows of .* is good \(unknown action"):
        prepare(made)
    assert content(made) == before
    bad.head(0).write_parquet(log / "day=4" / "events.parquet")  # a day on which nothing came
    prepare(made)
    assert content(made) == before


def test_two_at_a_time_are_refused(tmp_path):
    log = tmp_path / "log"
    write_days(log, range(4))
    made = document(tmp_path, log)
    planned = plan(made, find(made).chunks, ())
    with working(planned), pytest.raises(ValueError, match=r"another `jobs\.prepare` is at work"):
        prepare(made)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["chunks/*.json", "parts/*.json"])
def test_a_killed_run_goes_on_and_gives_the_same(tmp_path, when):
    log = tmp_path / "log"
    write_days(log, range(5))
    made = document(tmp_path, log)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(made.model_dump(mode="json")))
    command = [sys.executable, "-m", "jobs.prepare", "--config", str(tmp_path / "run.yaml")]
    child = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not (done := list(made.folder.rglob(when))) and child.poll() is None:
            time.sleep(0.01)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert done, "it was over before it could be killed"
    with pytest.raises(ValueError, match="is incomplete"):
        Prepared.open(made.folder / "prepared", made)
    kept = {path: path.stat().st_mtime_ns for path in done}
    prepare(made)
    once = document(tmp_path / "once", log)
    prepare(once)
    assert content(made) == content(once)
    assert not [path for path in kept if path.exists()], "work folders are left"


def test_the_log_of_the_service_is_read_beside_the_source(tmp_path):
    log, served = tmp_path / "log", tmp_path / "served"
    write_days(log, range(4))
    made = document(tmp_path, log).model_copy(update={"log": str(served)})
    before = prepare(made)  # nothing is collected yet
    served.mkdir()
    rows = day(5, num=40).drop("city")
    rows.write_parquet(served / "events-000000000001-000000000040.parquet")
    ledger = prepare(made)
    assert ledger["read"] == before["read"] + len(rows)
    assert len(generations(made)) == 2


def test_what_was_forgotten_in_the_service_is_left_out_of_all_that_is_prepared(tmp_path, capfd):
    log, served = tmp_path / "log", tmp_path / "served"
    write_days(log, range(5))
    served.mkdir()
    day(5, num=40).drop("city").write_parquet(served / "events-1-40.parquet")
    made = document(tmp_path, log).model_copy(update={"log": str(served)})
    full = prepare(made)
    assert "u3" in Prepared.open(made.folder / "prepared").histories.users.to_pylist()
    until = int((DAY_0 + timedelta(days=30)).timestamp() * 1000)
    tombs = {"hash": [user_key("u3")], "until": [until]}
    pl.DataFrame(tombs).write_parquet(served / "_tombstones.parquet")
    left = prepare(made)
    assert "something was forgotten" in capfd.readouterr().out
    prepared = Prepared.open(made.folder / "prepared")
    assert "u3" not in prepared.histories.users.to_pylist()
    assert not any(b"u3" in path.read_bytes() for path in made.folder.rglob("*") if path.is_file())
    assert left["read"] == full["read"]
    assert left["quarantined"]["forgotten at the user's wish"] > 0
    prepare(made)
    assert "nothing new" in capfd.readouterr().out
