"""The service's events as files: all of them, once, and nothing that was forgotten."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import jobs.collecting
from configs.load import load
from jobs import collect, console
from jobs.collecting import read_tombstones
from jobs.sources import chunks, locate, read
from models.config import DAY_MS
from models.events import SCHEMA
from models.mapping import clean, map_rows
from models.stores import write_snapshot
from models.stores.following import LmdbLog
from models.stores.opening import open_memory
from models.stores.redis.config import RedisConfig
from models.stores.tombstones import user_key
from tests.jobs import retail
from tests.models.stores.redis_server import needs_redis, shared_server
from tests.models.stores.world import NOW, Clock, events, numbered, open_lmdb

HOUR = 3_600_000
LONG_AGO = NOW - 30 * DAY_MS


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def store(tmp_path):
    """Calls a function with the open store: a process opens an environment once."""

    def do(function, name="store"):
        opened = open_lmdb(tmp_path / name, Clock())
        try:
            return function(opened)
        finally:
            opened.close()

    return do


def collected(tmp_path, folder, name="store", **told):
    logs = collect.logs_of_folder(tmp_path / name)
    try:
        return jobs.collecting.collect(logs, folder, **told)
    finally:
        for log in logs.values():
            log.close()


def rows_in(folder, pattern="events-*"):
    tables = [pq.read_table(path, partitioning=None) for path in sorted(folder.rglob(pattern))]
    assert all(table.schema.names == SCHEMA.names for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def ids_in(folder, pattern="events-*"):
    return [row["event_id"] for row in rows_in(folder, pattern)]


def files_in(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.parquet*")
    }


def names_in(folder):
    return [name for name in sorted(files_in(folder)) if name.startswith("events-")]


def test_events_are_collected_as_they_were_sent_and_gone_on_with(store, tmp_path, folder):
    first, second = numbered(range(1_200)), numbered(range(1_200, 1_300))
    store(lambda opened: opened.apply_many(first))
    assert collected(tmp_path, folder).num_events == 1_200
    before = files_in(folder)
    assert collected(tmp_path, folder).num_files == 0
    assert files_in(folder) == before
    store(lambda opened: opened.apply_many(second))
    assert collected(tmp_path, folder).num_events == 100
    assert names_in(folder) == [
        "events-000000000001-000000001200.parquet",
        "events-000000001201-000000001300.parquet",
    ]
    # In the order of their commits; within a call that is the store's own.
    wanted = pa.concat_tables([first, second]).to_pylist()
    found = rows_in(folder)
    assert len(found) == len(wanted)
    assert {row["event_id"]: row for row in found} == {row["event_id"]: row for row in wanted}
    assert all(files_in(folder)[name] == content for name, content in before.items())


def test_large_logs_make_many_files(store, tmp_path, folder):
    store(lambda opened: opened.apply_many(numbered(range(2_000))))
    done = collected(tmp_path, folder, most_rows=600)
    assert (done.num_events, done.num_files) == (2_000, 2)
    assert sorted(ids_in(folder)) == sorted(f"e{n}" for n in range(2_000))


def test_late_events_are_collected_too_each_once(store, tmp_path, folder):
    late = events([{"event_id": f"late{n}", "ts": LONG_AGO + n} for n in range(3)])
    store(lambda opened: (opened.apply_many(numbered(range(5))), opened.apply_many(late)))
    assert collected(tmp_path, folder).num_late == 3
    assert ids_in(folder, "late*") == ["late0", "late1", "late2"]
    first = folder / "late-000001.parquet"
    when = first.stat().st_mtime_ns
    assert collected(tmp_path, folder).num_late == 3
    store(lambda opened: opened.apply_many(events([{"event_id": "late9", "ts": LONG_AGO}])))
    assert collected(tmp_path, folder).num_late == 4
    assert ids_in(folder, "late-000002*") == ["late9"]
    assert first.stat().st_mtime_ns == when
    store(lambda opened: opened.delete("ann"))
    assert collected(tmp_path, folder).num_late == 0
    assert not ids_in(folder, "late*")


def is_in_bytes(folder, text):
    """Whether a text is in the bytes of any file, or in what they hold unpacked."""
    raw = any(text.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    tables = [pl.read_parquet(path) for path in folder.rglob("*.parquet")]
    return raw or any(text in str(table.to_dicts()) for table in tables)


def test_of_an_erased_user_nothing_is_left(store, tmp_path, folder):
    own = [{"event_id": f"a{n}", "user_id": "Erasmus Gone", "ts": NOW - n} for n in range(4)]
    others = [{"event_id": f"b{n}", "user_id": "Bea", "ts": NOW - n} for n in range(4)]
    late = [{"event_id": "z", "user_id": "Erasmus Gone", "ts": LONG_AGO}]
    for rows in (own[:2] + others[:2], own[2:] + others[2:], late):
        store(lambda opened, rows=rows: opened.apply_many(events(rows)))
        collected(tmp_path, folder)
    assert is_in_bytes(folder, "Erasmus Gone")
    store(lambda opened: opened.delete("Erasmus Gone"))
    done = collected(tmp_path, folder)
    assert (done.num_forgotten, done.num_rewritten) == (5, 3)
    assert not is_in_bytes(folder, "Erasmus Gone")
    assert sorted(ids_in(folder)) == ["b0", "b1", "b2", "b3"]
    assert list(read_tombstones(folder)) == [user_key("Erasmus Gone")]
    # It goes on after what is gone, and who comes back is new.
    again = [{"event_id": "new", "user_id": "Erasmus Gone", "ts": NOW + 1}]
    store(lambda opened: opened.apply_many(events(again)))
    assert collected(tmp_path, folder).num_events == 1
    assert collected(tmp_path, folder).num_forgotten == 0
    assert sorted(ids_in(folder)) == ["b0", "b1", "b2", "b3", "new"]


def test_an_item_or_a_time_that_was_forgotten_leaves_the_files(store, tmp_path, folder):
    rows = [
        {"event_id": f"{user}{n}", "user_id": user, "item_id": f"i{n % 2}", "ts": NOW - n * HOUR}
        for user in ("ann", "bob", "eve")
        for n in range(1, 7)
    ]
    said = {"action": "state", "slot": "size", "fact": "42", "item_id": None}
    rows.append({"event_id": "fact", "user_id": "bob", "ts": NOW - 5 * HOUR, **said})
    store(lambda opened: opened.apply_many(events(rows)))
    collected(tmp_path, folder)
    store(lambda opened: opened.forget("ann", item_id="i1"))
    store(lambda opened: opened.forget("bob", before_ms=NOW - 3 * HOUR))
    assert collected(tmp_path, folder).num_forgotten == 3 + 4
    wanted = ["ann2", "ann4", "ann6", "bob1", "bob2", "bob3", *(f"eve{n}" for n in range(1, 7))]
    assert sorted(ids_in(folder)) == wanted
    # The files hold what the store has left.
    kept = store(
        lambda o: [e for user in ("ann", "bob", "eve") for e in o.history(user).to_pylist()]
    )
    assert sorted(event["event_id"] for event in kept) == wanted


def test_what_was_forgotten_before_it_was_collected_never_comes(store, tmp_path, folder):
    rows = [{"event_id": f"{user}{n}", "user_id": user} for user in "ab" for n in range(3)]
    store(lambda opened: (opened.apply_many(events(rows)), opened.delete("a")))
    assert collected(tmp_path, folder).num_events == 3
    assert sorted(ids_in(folder)) == ["b0", "b1", "b2"]


class ForgetsWhileRead:
    """A log of which somebody is erased just after their events were read."""

    def __init__(self, log, tombstones):
        self._log, self._tombstones, self._is_read = log, tombstones, False

    def stream(self, after=0):
        yield from self._log.stream(after)
        self._is_read = True

    def late_events(self):
        return self._log.late_events()

    def tombstones(self):
        return self._tombstones if self._is_read else {}


def test_what_is_forgotten_while_it_is_read_reaches_no_disk(store, tmp_path, folder, monkeypatch):
    rows = [{"event_id": f"{user}{n}", "user_id": user} for user in "ab" for n in range(3)]
    store(lambda opened: opened.apply_many(events(rows)))
    written = []
    write = pq.write_table
    monkeypatch.setattr(
        pq, "write_table", lambda table, *a, **k: (written.append(table), write(table, *a, **k))
    )
    log = ForgetsWhileRead(LmdbLog(tmp_path / "store"), {user_key("a"): NOW})
    jobs.collecting.collect({"": log}, folder)
    log._log.close()
    assert sorted(ids_in(folder)) == ["b0", "b1", "b2"]
    assert all("a" not in t["user_id"].to_pylist() for t in written if "user_id" in t.column_names)


def test_an_erasure_reaches_the_events_of_all_stores(store, tmp_path, folder):
    for name in ("store/one", "store/two"):
        rows = [{"event_id": f"{name}{user}", "user_id": user} for user in "ab"]
        store(lambda opened, rows=rows: opened.apply_many(events(rows)), name)
    (tmp_path / "store/one.json").write_text("{}")
    assert collected(tmp_path, folder).num_events == 4
    assert {name.split("/")[0] for name in files_in(folder)} == {
        "one",
        "two",
        "_tombstones.parquet",
    }
    store(lambda opened: opened.delete("a"), "store/two")  # the release of today
    assert collected(tmp_path, folder).num_forgotten == 2
    assert sorted(ids_in(folder)) == ["store/oneb", "store/twob"]


def test_an_erasure_reaches_the_files_of_a_store_that_is_no_more(store, tmp_path, folder):
    rows = [{"event_id": f"{user}{ts}", "user_id": user, "ts": ts}
            for user in "ab" for ts in (NOW, LONG_AGO)]  # fmt: skip
    store(lambda opened: opened.apply_many(events(rows)), "store/one")
    collected(tmp_path, folder)
    shutil.rmtree(tmp_path / "store/one")
    store(lambda opened: opened.delete("a"), "store/two")
    assert collected(tmp_path, folder).num_forgotten == 2
    assert sorted(ids_in(folder, "*/*.parquet")) == [f"b{LONG_AGO}", f"b{NOW}"]
    # Nor does it come back with a copy of the old store.
    store(lambda opened: opened.apply_many(events(rows)), "store/three")
    collected(tmp_path, folder)
    assert {row["user_id"] for row in rows_in(folder, "*/*.parquet")} == {"b"}


KILLED = """
import os, sys
from pathlib import Path
import jobs.collecting as collecting
from jobs import collect
left = int(sys.argv[3])
replace = Path.replace
def dies(path, target):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    return replace(path, target)
Path.replace = dies
collecting.collect(collect.logs_of_folder(Path(sys.argv[1])), Path(sys.argv[2]), most_rows=512)
"""


@pytest.mark.parametrize("replaced", [0, 1, 3, 4, 5])
def test_a_run_that_is_killed_is_gone_on_with(store, tmp_path, folder, replaced):
    def fill(opened):
        opened.apply_many(numbered(range(1_500)))
        opened.apply_many(events([{"event_id": "late", "ts": LONG_AGO}]))

    store(fill)
    collected(tmp_path, folder, most_rows=512)
    store(lambda opened: (opened.apply_many(numbered(range(1_500, 2_200))), opened.delete("u1")))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(folder), str(replaced)]
    assert subprocess.run(command, check=False).returncode == (9 if replaced < 5 else 0)
    assert bool(list(folder.rglob(".*.parquet.*"))) == (replaced < 5)
    # Whole files only, also before anybody goes on.
    assert len(set(ids_in(folder))) == len(ids_in(folder))
    collected(tmp_path, folder, most_rows=512)
    untouched = tmp_path / "untouched"
    collected(tmp_path, untouched, most_rows=512)
    assert sorted(ids_in(folder)) == sorted(ids_in(untouched))
    assert len(ids_in(folder)) == 2_200 - 2_200 // 3
    assert not list(folder.rglob(".*.parquet.*"))
    assert not is_in_bytes(folder, "'u1'")
    assert read_tombstones(folder) == read_tombstones(untouched)


def test_one_run_at_a_time(store, tmp_path, folder):
    store(lambda opened: opened.apply_many(numbered(range(3))))
    folder.mkdir()
    with (folder / "_lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run collects into"):
            collected(tmp_path, folder)
    assert collected(tmp_path, folder).num_events == 3


WRITER = """
import sys
from pathlib import Path
from tests.models.stores.world import Clock, numbered, open_lmdb
store = open_lmdb(Path(sys.argv[1]), Clock())
for n in range(0, 6_000, 50):
    store.apply_many(numbered(range(n, n + 50)))
    print(n, flush=True)
    if n == 3_000:
        store.delete("u2")
store.close()
"""


def test_a_service_that_goes_on_writing_is_followed(tmp_path, folder):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "store")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env=os.environ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        runs = 0
        while writer.poll() is None:
            collected(tmp_path, folder)
            runs += 1
        assert writer.returncode == 0
    collected(tmp_path, folder)
    assert runs > 1
    # All events lie before the erasure, so those of u2 that came after it were refused.
    wanted = [f"e{n}" for n in range(6_000) if n % 3 != 2]
    assert sorted(ids_in(folder)) == sorted(wanted)


def test_prepare_reads_the_folder_without_a_mapping(store, tmp_path, folder):
    sent = [
        {"event_id": "v", "session_id": "s", "request_id": "r", "position": 3, "propensity": 0.5},
        {"event_id": "q", "action": "search", "item_id": None, "query": "red shoes"},
        {"event_id": "f", "action": "state", "slot": "size", "fact": "42", "item_id": None},
        {"event_id": "late", "ts": LONG_AGO},
        {"event_id": "gone", "user_id": "bob"},
    ]
    store(lambda opened: opened.apply_many(events(sent)))
    collected(tmp_path, folder)
    store(lambda opened: opened.delete("bob"))
    collected(tmp_path, folder)
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"name: mine\nsource: {{ path: {folder} }}\nrequests:\n"
        "  labels: [view]\n  validate_from: 2023-11-10\n  test_from: 2023-11-12\n"
    )
    document = load(path)
    source = locate(document.source.path, document.source)
    good = []
    for chunk in chunks(source, document.source):
        for rows in read(source, chunk, document.source):
            mapped = map_rows(rows.table, source=document.source, items=document.items)
            both = clean(rows.table, mapped, source=document.source, now_ms=NOW)
            assert both["reason"].null_count == len(both)
            good += both.select(SCHEMA.names).to_pylist()
    wanted = [row for row in events(sent).to_pylist() if row["user_id"] != "bob"]
    assert sorted(good, key=lambda row: row["event_id"]) == sorted(
        wanted, key=lambda row: row["event_id"]
    )


def run(*arguments):
    with pytest.raises(SystemExit) as done:
        console.run(collect.main, list(map(str, arguments)))
    return done.value.code


def test_the_verb_by_folder_and_by_the_service_s_config(store, tmp_path, folder, capsys):
    store(lambda opened: opened.apply_many(numbered(range(7))), "store/abc")
    assert run("--store", tmp_path / "store", "--to", folder) == 0
    assert "new events" in capsys.readouterr().out
    serve = {
        "applications": [{"name": "ebb", "args": {"store": {"path": str(tmp_path / "store")}}}]
    }
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(serve))
    assert run("--config", tmp_path / "serve.yaml", "--to", tmp_path / "other") == 0
    assert ids_in(tmp_path / "other") == ids_in(folder) != []


@needs_redis
def test_a_store_on_a_server_is_found_by_the_release(tmp_path, folder):
    model = retail.document(tmp_path, tmp_path).model
    release = tmp_path / "release"
    release.mkdir()
    config = {"model": model.model_dump(mode="json")}
    (release / "config.json").write_text(json.dumps(config))
    spec = model.memory.state
    snapshot = write_snapshot(release / "memory.parquet", iter(()), spec=spec, marks_from=0)
    server = {"url": shared_server().url, "prefix": str(tmp_path)}
    settings = RedisConfig(**server)
    opened = open_memory(settings, spec=spec, name=snapshot.snapshot_id, clock=Clock())
    opened.apply_many(numbered(range(20)))
    opened.delete("u1")
    opened.close()
    args = {"release": str(release), "store": server}
    serve = {"applications": [{"name": "ebb", "args": args}]}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(serve))
    assert run("--config", tmp_path / "serve.yaml", "--to", folder) == 0
    assert sorted(ids_in(folder)) == sorted(f"e{n}" for n in range(20) if n % 3 != 1)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [snapshot.snapshot_id]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give --store or --config"),
        (("--store", "here", "--config", "x.yaml"), "Give --store or --config"),
        (("--store", "nowhere"), "there is no store in nowhere"),
        (("--store", "broken"), "broken holds no store that can be read"),
        (("--config", "none.yaml"), "there is no file none.yaml"),
        (("--config", "empty.yaml"), "has no application with a store"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/data.mdb").write_bytes(b"no store" * 4_096)
    (tmp_path / "empty.yaml").write_text("{}")
    assert run(*arguments, "--to", "log") == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_store_of_another_layout_is_refused(store, tmp_path, monkeypatch):
    store(lambda opened: opened.apply_many(numbered(range(3))))
    monkeypatch.setattr("models.stores.following.FORMAT", b"99")
    with pytest.raises(ValueError, match="this release reads layout 99"):
        LmdbLog(tmp_path / "store")


def test_help_shows_examples_and_loads_nothing_heavy():
    script = (
        "import runpy, sys\nsys.argv = ['-m', '--help']\n"
        "try:\n    runpy.run_module('jobs.collect', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n    code = end.code\n"
        "heavy = {'ray', 'torch', 'lmdb', 'pyarrow', 'numpy', 'polars'} & set(sys.modules)\n"
        "assert not heavy, heavy\nraise SystemExit(code)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\n    python -m jobs.collect --store runs/online_retail/store" in done.stdout
