"""Files with a line a user become events in the file's order, or an error that names the line."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.load import load
from jobs import console
from jobs.datasets import amazon_beauty, movielens_1m_order
from jobs.datasets.sequences import BEGIN_MS, events_of, lines_of, write

ROOT = Path(__file__).parents[3]
BEAUTY = ROOT / amazon_beauty.SOURCE
MOVIELENS = ROOT / movielens_1m_order.SOURCE


def rows(events: pa.Table) -> list[tuple[str, str, int]]:
    ts = (np.asarray(events["ts"].cast(pa.int64())) - BEGIN_MS).tolist()
    names = (events[name].to_pylist() for name in ("user_id", "item_id"))
    return list(zip(*names, ts, strict=True))


def test_gaps_add_up_and_the_order_of_a_day_is_kept():
    events = amazon_beauty.convert(["7 a b c\t0 0 86400", "8 b\t0"])
    day = 86_400_000
    assert rows(events) == [("7", "a", 0), ("7", "b", 1), ("7", "c", day + 2), ("8", "b", 0)]
    assert events["event_id"].to_pylist() == ["00000", "00001", "00002", "00000"]


@pytest.mark.parametrize("line", ["7 a b\t0", "7 a b", "7\t", "7 a b\t0 soon", "7 a b\t0 -5", ""])
def test_a_line_that_is_not_of_that_form_is_named(line):
    with pytest.raises(ValueError, match=r"line 2: .* a line is a user, items, a tab"):
        amazon_beauty.convert(["1 a\t0", line])


def test_the_files_of_a_split_are_put_together():
    events = movielens_1m_order.convert(
        train=["a b", "c d", "e"],
        validate=["c d x"],
        validate_next=["y"],
        test_next=["1", "2", "3"],
    )
    own = {user: [i for u, i, _ in rows(events) if u == user] for user in "123"}
    assert own == {"1": ["a", "b", "1"], "2": ["c", "d", "x", "y", "2"], "3": ["e", "3"]}
    assert [at for user, _, at in rows(events) if user == "2"] == [n * 60_000 for n in range(5)]


def test_files_that_do_not_belong_together_are_refused():
    good = {"train": ["a b"], "validate": ["a b x"], "validate_next": ["y"], "test_next": ["z"]}
    for change, message in [
        ({"test_next": []}, "not of one split"),
        ({"validate_next": []}, "not of one split"),
        ({"validate": ["q x"]}, "no line of train begins"),
    ]:
        with pytest.raises(ValueError, match=message):
            movielens_1m_order.convert(**{**good, **change})


def test_times_must_rise():
    with pytest.raises(ValueError, match="times of user u do not rise"):
        events_of(["u"], [["a", "b"]], [np.asarray([5, 5])])
    with pytest.raises(ValueError, match="more items than times"):
        events_of(["u"], [["a", "b"]], [np.asarray([5])])


def test_a_file_is_read_packed_or_plain_and_told_where_it_cannot_be(tmp_path: Path):
    packed, plain, broken = (tmp_path / n for n in ("a.xz", "a.txt", "b.xz"))
    packed.write_bytes(lzma.compress(b"1 a\n2 b\n"))
    plain.write_text("1 a\n")
    broken.write_bytes(b"not packed")
    assert lines_of(packed) == ["1 a", "2 b"]
    assert lines_of(plain) == ["1 a"]
    (tmp_path / "empty.txt").touch()
    for name, message in [
        ("none.txt", "is not there: say with --source"),
        ("b.xz", "is no text that can be read"),
        ("empty.txt", "is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            lines_of(tmp_path / name)


def test_a_command_writes_what_the_document_reads(tmp_path: Path):
    source = tmp_path / "lines.xz"
    source.write_bytes(lzma.compress(b"1 a b\t0 60\n"))
    with pytest.raises(SystemExit) as ended:
        console.run(amazon_beauty.main, [f"--source={source}", f"--to={tmp_path}"])
    assert ended.value.code == 0
    document = load(ROOT / "configs/amazon_beauty.yaml")
    names = pq.read_schema(tmp_path / "events.parquet").names
    assert set(document.source.columns.values()) == set(names)
    assert Path(document.source.path).name == "events.parquet"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_writing_again_replaces(tmp_path: Path):
    for line in ("1 a\t0", "1 b c\t0 1"):
        path = write(amazon_beauty.convert([line]), tmp_path / "new")
    assert pq.read_table(path)["item_id"].to_pylist() == ["b", "c"]


@pytest.mark.skipif(not BEAUTY.is_file(), reason=f"evaluate only: {BEAUTY} is not here")
def test_amazon_beauty_is_what_the_papers_count():
    events = amazon_beauty.convert(lines_of(BEAUTY))
    assert len(events) == 198_502
    assert len(events["user_id"].unique()) == 22_363
    assert len(events["item_id"].unique()) == 12_101


@pytest.mark.skipif(not MOVIELENS.is_dir(), reason=f"evaluate only: {MOVIELENS} is not here")
def test_movielens_is_what_its_readme_counts(tmp_path: Path):
    with pytest.raises(SystemExit):
        console.run(movielens_1m_order.main, [f"--source={MOVIELENS}", f"--to={tmp_path}"])
    events = pq.read_table(tmp_path / "events.parquet")
    assert len(events) == 994_083
    assert len(events["user_id"].unique()) == 6_040
    assert len(events["item_id"].unique()) == 3_416
