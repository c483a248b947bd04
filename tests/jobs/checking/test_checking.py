"""The dry run: what it says of a good mapping, of wrong ones, and what it costs to follow it."""

from __future__ import annotations

import gzip
import itertools
import json

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import load
from jobs import console, prepare
from jobs.checking.findings import check
from jobs.checking.sampling import sample
from jobs.checking.showing import verdict
from jobs.sources import locate
from models.mapping import SourceConfig
from tests.jobs.retail import BUNDLED, CONFIG

NOW = 1_800_000_000_000
DAY = 86_400_000
REQUESTS = {"labels": ["view"], "validate_from": "2015-08-01", "test_from": "2015-10-01"}


def document_of(tmp_path, source, **told):
    path = tmp_path / "config.yaml"
    given = {"name": "x", "runs": str(tmp_path / "runs"), "requests": REQUESTS, "source": source}
    path.write_text(yaml.safe_dump({**given, **told}))
    return load(path)


def write_log(path, rows, header="visitor id,itemid,event,when"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return {"path": str(path)}


def line(n, event="view", form="{day:02}/{month:02}/2015 12:{minute:02}"):
    when = form.format(day=n % 28 + 1, month=n % 12 + 1, minute=n % 60)
    return f"u{n % 7},i{n % 5},{event},{when}"


def told(found):
    return [problem.what for problem in found.problems]


def mended(document, found):
    """The mapping with everything that the problems say to write."""
    source = document.source.model_dump(exclude_defaults=True)
    for problem in found.problems:
        said, _, _ = problem.do.partition("   ")
        if said.startswith("source."):
            key, _, value = said.removeprefix("source.").partition(": ")
            value = yaml.safe_load(value.replace("?", "view"))
            source[key] = {**source.get(key, {}), **value} if isinstance(value, dict) else value
    return source


def test_a_good_mapping_passes_and_is_counted(tmp_path):
    rows = [
        {"user_id": "a", "ts": n * DAY, "arrived_at": n * DAY + lag, "item_id": "i", "id": str(n)}
        for n, lag in [(16_500, 0), (16_501, 9 * DAY), (16_502, 0), (16_700, 0), (16_800, 0)]
    ]
    rows += [rows[0], {**rows[1], "item_id": "j"}, {**rows[2], "item_id": None}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), "no json", "", '{"user_id": "b"}']))
    source = {"path": str(path), "ts_unit": "ms", "action": "view", "columns": {"event_id": "id"}}
    document = document_of(tmp_path, source, prepare={"max_quarantine_share": 0.4})
    found = check(document, now_ms=NOW)
    assert (found.num_rows, found.num_good, found.num_wrong) == (10, 7, 3)
    assert found.is_whole
    assert found.actions == {"view": 7}
    assert (found.users, found.items) == (1, 2)
    assert (found.repeated, found.differing) == (2, 1)
    assert found.late == 2  # the day's nine days late, with its double
    assert found.unordered == 2
    assert (found.first, found.last) == ("2015-03-06 00:00:00", "2015-12-31 00:00:00")
    assert [(w.reason, w.origin) for w in found.wrong] == [
        ("no event_id", "a.jsonl, row 10"),
        ("no item_id", "a.jsonl, row 7"),
        ("not a JSON object", "a.jsonl, row 8"),
    ]
    assert found.wrong[2].row == "no json"
    assert [(s.name, s.events, s.labelled) for s in found.splits] == [
        ("train", 5, 5),
        ("validate", 1, 1),
        ("test", 1, 1),
    ]
    assert not found.problems
    assert found.passes
    assert verdict(found) is None


def test_advice_that_is_followed_gives_a_mapping_that_passes(tmp_path):
    lines = [line(n, ("view", "addtocart", "odd one")[n // 12 % 3]) for n in range(400)]
    document = document_of(tmp_path, write_log(tmp_path / "a.csv", lines))
    found = check(document, now_ms=NOW)
    assert not found.passes
    assert found.is_guess
    assert "prepare would not go on" in verdict(found)
    assert [what.split(":")[0] for what in told(found)] == [
        "ts", "user_id", "action", "item_id", "ts", "action"
    ]  # fmt: skip
    assert "'addtocart' (132)" in told(found)[-1]
    assert "'odd one' (132)" in told(found)[-1]
    # One run told everything, the figures under the mended mapping too.
    assert found.actions == {"view": 136, "cart": 132}
    better = document_of(tmp_path, mended(document, found))
    again = check(better, now_ms=NOW)
    assert again.passes, told(again)
    assert again.num_good == 400
    assert again.actions == {"view": 268, "cart": 132}
    assert again.problems == ()


def test_a_mapping_that_is_mended_in_the_figures_does_not_pass(tmp_path):
    write_log(tmp_path / "a.csv", [line(n) for n in range(60)], "user_id,item_id,action,ts")
    found = check(document_of(tmp_path, {"path": str(tmp_path / "a.csv")}), now_ms=NOW)
    assert found.num_wrong == 0
    assert [problem.do[:18] for problem in found.problems if problem.stops] == [
        "source.ts_format: "
    ]
    assert not found.passes


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("{day:02}.{month:02}.2015 12:{minute:02}", 'source.ts_format: "%d.%m.%Y %H:%M"'),
        ("2015{month:02}{day:02}", 'source.ts_format: "%Y%m%d"'),
        ("14300000{day:02}", "source.ts_unit: s   (then it is 2015-04-25"),
        ("14300000{day:02}000", "source.ts_unit: ms   (then it is 2015-04-25"),
        ("on {day} {month}", "if they are times, say how they are written in source.ts_format"),
    ],
)
def test_times_that_cannot_be_read_are_guessed(tmp_path, written, advice):
    lines = [line(n, form=written) for n in range(300)]
    source = write_log(tmp_path / "a.csv", lines, "user_id,item_id,action,ts")
    (problem,) = (p for p in check(document_of(tmp_path, source)).problems if p.what[:3] == "ts:")
    assert problem.do.startswith(advice)
    assert problem.stops


def test_both_orders_of_day_and_month_are_named_where_both_fit(tmp_path):
    lines = [f"u,i,view,0{n % 9 + 1}/0{n % 8 + 1}/2015" for n in range(99)]
    source = write_log(tmp_path / "a.csv", lines, "user_id,item_id,action,ts")
    (problem,) = (p for p in check(document_of(tmp_path, source)).problems if p.what[:3] == "ts:")
    assert "%d/%m/%Y" in problem.do
    assert "%m/%d/%Y" in problem.do


def test_a_wrong_unit_is_noticed_by_the_times_that_it_gives(tmp_path):
    table = {"user_id": [1, 2], "item_id": [1, 2], "ts": [1_430_000_000_000, 1_440_000_000_000]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    source = {"path": str(tmp_path), "action": "view", "ts_unit": "us"}
    found = check(document_of(tmp_path, source), now_ms=NOW)
    (problem,) = (p for p in found.problems if "numbers" in p.what)
    assert "in us that is 1970-01-17" in problem.what
    assert problem.do.startswith("source.ts_unit: ms ")
    assert found.first.startswith("2015-04-25")


def test_empty_splits_come_with_times_that_would_do(tmp_path):
    lines = [f"u,i,{action},2016-0{n % 9 + 1}-0{n % 8 + 1}" for n in range(200)
             for action in ("view", "cart")]  # fmt: skip
    source = write_log(tmp_path / "a.csv", lines, "user_id,item_id,action,ts")
    document = document_of(tmp_path, source, requests={**REQUESTS, "labels": ["save", "cart"]})
    found = check(document, now_ms=NOW)
    assert not found.passes
    label, empty, *_ = [problem for problem in found.problems if "label" in problem.what]
    assert label.what == "requests.labels: no event has the action save"
    assert not label.stops
    assert empty.what == "no event with a label falls into train, validate"
    times = yaml.safe_load(empty.do.partition("   ")[0])["requests"]
    better = document_of(tmp_path, source, requests={"labels": ["cart"], **times})
    found = check(better, now_ms=NOW)
    assert found.passes, told(found)
    assert all(split.labelled for split in found.splits)


def test_columns_that_nothing_uses_are_named_but_stop_nothing(tmp_path):
    rows = [f"u,i,2015-{n % 12 + 1:02}-01,7,8,9" for n in range(24)]
    source = write_log(tmp_path / "a.csv", rows, "user_id,item_id,ts,price,color,os")
    source |= {"action": "view"}
    told = {"items": {"columns": {"price": "price"}}, "requests": {**REQUESTS, "context": ["os"]}}
    source["columns"] = {"context_os": "os"}
    found = check(document_of(tmp_path, source, **told), now_ms=NOW)
    assert [problem.what for problem in found.problems] == ["columns that nothing uses: color"]
    assert found.passes


def test_too_many_wrong_rows_and_none_that_is_good(tmp_path):
    rows = [f"u,i,2015-{n % 12 + 1:02}-01" for n in range(90)] + [",i,2015-01-01"] * 10
    source = {**write_log(tmp_path / "a.csv", rows, "user_id,item_id,ts"), "action": "view"}
    few = check(document_of(tmp_path, source, prepare={"max_quarantine_share": 0.1}), now_ms=NOW)
    assert few.passes
    many = check(document_of(tmp_path, source, prepare={"max_quarantine_share": 0.09}), now_ms=NOW)
    assert verdict(many).startswith("source: 10.0% of the rows are wrong, more than")
    write_log(tmp_path / "a.csv", [",i,2015-01-01"] * 10, "user_id,item_id,ts")
    none = check(document_of(tmp_path, source), now_ms=NOW)
    assert verdict(none) == "source: not one of 10 rows is good"
    write_log(tmp_path / "a.csv", [], "user_id,item_id,ts")
    assert verdict(check(document_of(tmp_path, source))) == "source.path: there is not one row"


def test_what_sources_and_item_tables_say_is_told_with_the_rest(tmp_path):
    rows = [f"u,i{n},2015-{n % 12 + 1:02}-01" for n in range(24)]
    source = {**write_log(tmp_path / "a.csv", rows, "user_id,item_id,ts"), "action": "view"}
    told = {"requests": {**REQUESTS, "context": ["os"]}}
    found = check(document_of(tmp_path, source, **told), now_ms=NOW)
    assert "context_os: there is no column" in found.problems[0].what
    assert not found.passes
    assert [column.name for column in found.raw] == ["user_id", "item_id", "ts"]
    (tmp_path / "items.csv").write_text("id,title\ni1,one\ni1,two\n")
    items = {"path": str(tmp_path / "items.csv"), "columns": {"item_id": "id", "text": "title"}}
    found = check(document_of(tmp_path, source, items=items), now_ms=NOW)
    assert "2 rows have no item id or share one" in found.problems[0].what
    assert not found.passes
    (tmp_path / "items.csv").write_text("id,title\ni1,one\n")
    found = check(document_of(tmp_path, source, items=items), now_ms=NOW)
    assert "23 of 24 items of events are not in" in found.problems[0].what
    assert found.passes


def test_the_bundled_data_passes_with_its_adapter():
    found = check(load(CONFIG, [f"source.path={BUNDLED}"]), most_rows=20_000)
    assert found.passes, found.problems
    assert found.num_rows == 20_000
    assert found.num_known == 541_909
    assert set(found.actions) == {"purchase", "cancel"}
    feeds = {column.name: column.about for column in found.events}
    assert feeds["item_category"] == "adapter online_retail"


def config(path):
    return SourceConfig(path=str(path))


def rows_seen(path, most):
    return sample(locate(str(path), config(path)), config(path), most)


def test_a_sample_is_from_all_over_the_source(tmp_path):
    pl.DataFrame({"n": range(10_000)}).write_parquet(tmp_path / "a.parquet", row_group_size=100)
    seen = rows_seen(tmp_path, 800)
    numbers = [n for part in seen.parts for n in part.rows.table["n"].to_pylist()]
    assert len(numbers) == seen.num_rows == 800
    assert seen.num_known == 10_000
    assert not seen.is_whole
    assert numbers[0] == 0
    assert numbers[-1] > 9_900
    assert max(b - a for a, b in itertools.pairwise(numbers)) < 1_000
    assert rows_seen(tmp_path, 10_000).is_whole


def test_of_many_files_some_are_read_the_last_among_them(tmp_path):
    for n in range(50):
        (tmp_path / f"{n:02}.csv").write_text(f"n\n{n}\n{n}\n")
    seen = rows_seen(tmp_path, 16)
    files = [part.file for part in seen.parts]
    assert len(files) == len(set(files)) == 16
    assert (files[0], files[-1]) == ("00.csv", "49.csv")
    assert not seen.is_whole


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "csv.gz"])
def test_the_end_of_a_long_text_file_is_looked_at(tmp_path, suffix):
    form = '{{"n": {n}, "text": "{text}"}}' if suffix == "jsonl" else "{n},{text}"
    lines = [form.format(n=n, text="x" * 60) for n in range(90_000)]
    content = "\n".join([*([] if suffix == "jsonl" else ["n,text"]), *lines])
    packed = gzip.compress(content.encode()) if suffix.endswith("gz") else content.encode()
    (tmp_path / f"a.{suffix}").write_bytes(packed)
    seen = rows_seen(tmp_path, 1_000)
    assert seen.parts[0].rows.numbers.tolist() == list(range(1_000))
    last = seen.parts[-1].rows.table["n"].to_pylist()[-1]
    assert last == ("999" if suffix.endswith("gz") else "89999")


def test_the_verb_says_so_with_its_exit_code_and_writes_nothing(tmp_path, capsys, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    rows = [line(n) for n in range(100)]
    source = write_log(tmp_path / "a.csv", rows)
    document_of(tmp_path, source)
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--config", str(tmp_path / "config.yaml"), "--check"]
    with pytest.raises(SystemExit) as wrong:
        console.run(prepare.main, arguments)
    assert wrong.value.code == 2
    sets = ["source.columns={ts: when, user_id: visitor id, item_id: itemid, action: event}"]
    sets += ['source.ts_format="%d/%m/%Y %H:%M"']
    with pytest.raises(SystemExit) as right:
        console.run(prepare.main, [*arguments, *(f"--set={text}" for text in sets)])
    assert right.value.code == 0
    assert "prepare would go on with such rows" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
