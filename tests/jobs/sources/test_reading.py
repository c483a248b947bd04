"""Rows as they are read: streamed, numbered, what is broken told apart; and files that go wrong."""

from __future__ import annotations

import gzip
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.cloudpickle
from hypothesis import given
from hypothesis import strategies as st

from jobs.sources import Broken, chunks, locate, read, whole
from models.mapping import ItemsConfig, SourceConfig, clean, map_rows


def config(path, **told):
    return SourceConfig(path=str(path), **told)


def parts_of(path, batch_rows=262_144, target_rows=1_000_000, **told):
    wanted = config(path, **told)
    source = locate(str(path), wanted)
    return [
        rows
        for chunk in chunks(source, wanted, target_rows)
        for rows in read(source, chunk, wanted, batch_rows)
    ]


def rows_of(path, **told):
    return [row for rows in parts_of(path, **told) for row in rows.table.to_pylist()]


def numbers_of(parts):
    return [number for rows in parts for number in rows.numbers.tolist()]


def broken_of(parts):
    return [row for rows in parts for row in rows.broken]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_parquet(path, columns, **told):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **told)
    return path


def copied(value):
    """As another process would get it."""
    return ray.cloudpickle.loads(ray.cloudpickle.dumps(value))


def test_row_groups_go_together_up_to_the_target(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"n": list(range(25))}, row_group_size=4)
    source = locate(str(path), config(path))
    found = chunks(source, config(path), target_rows=8)
    assert [chunk.row_groups for chunk in found] == [(0, 1), (2, 3), (4, 5), (6,)]
    assert [(chunk.first_row, chunk.num_rows) for chunk in found] == [
        (0, 8),
        (8, 8),
        (16, 8),
        (24, 1),
    ]
    assert [c.row_groups for c in chunks(source, config(path), target_rows=1)] == [
        (group,) for group in range(7)
    ]
    for chunk in reversed(found):  # each by itself, in any order
        (rows,) = read(source, chunk, config(path))
        assert rows.table["n"].to_pylist() == rows.numbers.tolist()
        assert len(rows.table) == chunk.num_rows


def test_a_large_row_group_comes_in_batches(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"n": list(range(1000))})
    parts = parts_of(path, batch_rows=300)
    assert [len(rows.table) for rows in parts] == [300, 300, 300, 100]
    assert numbers_of(parts) == list(range(1000))


def test_a_chunk_keeps_its_id_until_somebody_touches_the_file(tmp_path):
    path = write(tmp_path / "a.csv", "a\n1\n")

    def chunk():
        return chunks(locate(str(tmp_path), config(tmp_path)), config(tmp_path))[0]

    before = chunk()
    write(tmp_path / "b.csv", "a\n1\n")
    assert chunk().id == before.id == copied(before).id
    os.utime(path, ns=(0, 12_345))
    assert chunk().id != before.id
    parquet = write_parquet(tmp_path / "c/a.parquet", {"n": [1, 2]}, row_group_size=1)
    source = locate(str(parquet), config(parquet))
    one, two = chunks(source, config(parquet), target_rows=1)
    assert one.id != two.id
    assert list(read(copied(source), one, config(parquet)))


def test_hive_partitions_are_text_columns(tmp_path):
    for name, value in (("2026-11-01", 1), ("a%2Fb", 2), ("__HIVE_DEFAULT_PARTITION__", 3)):
        write_parquet(tmp_path / f"day={name}/part.parquet", {"n": [value]})
    write_parquet(tmp_path / "day=9/hour=07/part.parquet", {"n": [4], "day": ["own"]})
    wanted = config(tmp_path, columns={"session_id": "day"})
    source = locate(str(tmp_path), wanted)
    assert source.names == ("n", "day", "hour")
    rows = {row["n"]: row for row in rows_of(tmp_path)}
    assert rows[1] == {"n": 1, "day": "2026-11-01", "hour": None}
    assert rows[2]["day"] == "a/b"
    assert rows[3]["day"] is None
    assert rows[4] == {"n": 4, "day": "own", "hour": "07"}
    assert len(whole(source, wanted)) == 4


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_hive_partitions_of_text_files(tmp_path, suffix):
    content = {"csv": "n,day\n1,own\n", "jsonl": '{"n": 1, "day": "own"}\n'}[suffix]
    other = {"csv": "n\n2\n", "jsonl": '{"n": 2}\n'}[suffix]
    write(tmp_path / f"day=1/a.{suffix}", content)
    write(tmp_path / f"day=2/a.{suffix}", other)
    assert rows_of(tmp_path) == [{"n": "1", "day": "own"}, {"n": "2", "day": "2"}]
    # Only what lies below the path that was given is a key.
    assert rows_of(tmp_path / "day=2") == [{"n": "2"}]


def test_a_file_has_its_own_columns(tmp_path):
    write(tmp_path / "a.csv", "user,item\nu,i\n")
    write(tmp_path / "b.csv", "item,user,extra\ni,u,007\n")
    assert rows_of(tmp_path) == [
        {"user": "u", "item": "i"},
        {"item": "i", "user": "u", "extra": "007"},
    ]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "parquet"])
def test_empty_files_among_others_give_no_rows(tmp_path, suffix):
    def pack(content):
        return gzip.compress(content) if suffix.endswith("gz") else content

    if suffix == "parquet":
        write_parquet(tmp_path / "b.parquet", {"n": pa.array([], pa.int64())})
        write_parquet(tmp_path / "c.parquet", {"n": [7]})
    elif suffix == "jsonl":
        write(tmp_path / "b.jsonl", "\n\n")
        write(tmp_path / "c.jsonl", '{"n": 7}\n')
    else:
        write(tmp_path / f"b.{suffix}", pack(b"n\n"))
        write(tmp_path / f"b2.{suffix}", pack(b""))
        write(tmp_path / f"c.{suffix}", pack(b"n\n7\n"))
    write(tmp_path / f"a.{suffix}", b"")
    write(tmp_path / f"part=3/a.{suffix}", b"")
    assert [str(row["n"]) for row in rows_of(tmp_path)] == ["7"]


def test_a_line_of_csv_with_too_few_columns_is_broken(tmp_path):
    path = write(tmp_path / "a.csv", 'a,b,c\n1,2,3\n\n4\n5,"6\n6",7\n8,9,10,11\n12,13,14\n15,16')
    parts = parts_of(path)
    assert numbers_of(parts) == [0, 2, 4]
    assert [row["a"] for rows in parts for row in rows.table.to_pylist()] == ["1", "5", "12"]
    assert broken_of(parts) == [
        Broken(1, "1 columns instead of 3", "4"),
        Broken(3, "4 columns instead of 3", "8,9,10,11"),
        Broken(5, "2 columns instead of 3", "15,16"),
    ]


def test_numbers_are_right_across_the_blocks_of_a_large_file(tmp_path):
    wrong = {5, 9_999, 60_000, 60_001, 119_999}
    padding = "x" * 40  # four blocks of a megabyte
    lines = [f"{n},{padding}" if n not in wrong else f"{n}" for n in range(120_000)]
    path = write(tmp_path / "a.csv", "\n".join(["n,text", *lines]))
    parts = parts_of(path, batch_rows=1_000)
    assert max(len(rows.table) for rows in parts) == 1_000
    read_as = [int(n) for rows in parts for n in rows.table["n"].to_pylist()]
    assert numbers_of(parts) == read_as == [n for n in range(120_000) if n not in wrong]
    assert {(row.number, int(row.text)) for row in broken_of(parts)} == {(n, n) for n in wrong}


@given(st.lists(st.integers(1, 3), max_size=40), st.integers(1, 7))
def test_every_line_is_a_row_or_broken_and_in_its_place(tmp_path_factory, widths, batch_rows):
    folder = tmp_path_factory.mktemp("law")
    lines = [",".join([str(n)] * width) for n, width in enumerate(widths)]
    path = write(folder / "a.csv", "\n".join(["a,b", *lines]) + "\n")
    parts = parts_of(path, batch_rows=batch_rows)
    good = [int(n) for rows in parts for n in rows.table["a"].to_pylist()]
    assert numbers_of(parts) == good == [n for n, width in enumerate(widths) if width == 2]
    assert [row.number for row in broken_of(parts)] == [n for n, w in enumerate(widths) if w != 2]


def test_lines_that_are_no_json_object_are_broken(tmp_path):
    content = b'\xef\xbb\xbf{"a": 1}\n[1]\n\n{"a": "\xff"}\n{"a"\n{"b": "\xc3\xb6"}\r\n'
    parts = parts_of(write(tmp_path / "a.jsonl", content))
    assert numbers_of(parts) == [0, 5]
    assert parts[0].table.to_pylist() == [{"a": "1", "b": None}, {"a": None, "b": "ö"}]
    assert broken_of(parts) == [
        Broken(1, "not a JSON object", "[1]"),
        Broken(3, "bytes that are no UTF-8", '{"a": "\N{REPLACEMENT CHARACTER}"}'),
        Broken(4, "not a JSON object", '{"a"'),
    ]


def test_a_file_of_nothing_but_broken_lines_is_told_line_by_line(tmp_path):
    write(tmp_path / "a.jsonl", '{"a": 1}\n')
    write(tmp_path / "b.jsonl", "a log\nof something else\n")
    write(tmp_path / "c/a.csv", "a,b\n1\n2\n")
    assert [row.number for row in broken_of(parts_of(tmp_path / "*.jsonl"))] == [0, 1]
    assert [row.number for row in broken_of(parts_of(tmp_path / "c"))] == [0, 1]


def test_lines_are_counted_on_from_batch_to_batch(tmp_path):
    path = write(tmp_path / "a.jsonl", "\n" + '{"a": 1}\n' * 4 + '\n\nno\n{"a": 2}\n')
    parts = parts_of(path, batch_rows=2)
    assert numbers_of(parts) == [1, 2, 3, 4, 8]
    assert [row.number for row in broken_of(parts)] == [7]


def test_a_batch_of_json_lines_has_the_columns_of_the_first_lines_and_its_own(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n{"b": 2}\n{"a": 3, "c": [1]}\n')
    assert [rows.table.to_pylist() for rows in parts_of(path, batch_rows=2)] == [
        [{"a": "1", "b": None, "c": None}, {"a": None, "b": "2", "c": None}],
        [{"a": "3", "b": None, "c": "[1]"}],
    ]


def test_bytes_of_csv_that_are_no_text_break_their_row_only(tmp_path):
    path = write(tmp_path / "a.csv", b"a,b\n1,J\xc3\xb6rg\n2,J\xf6rg\n3,\n")
    parts = parts_of(path)
    assert [row for rows in parts for row in rows.table.to_pylist()] == [
        {"a": "1", "b": "Jörg"},
        {"a": "3", "b": None},
    ]
    assert numbers_of(parts) == [0, 2]
    assert [(row.number, row.reason) for row in broken_of(parts)] == [
        (1, "bytes that are no UTF-8")
    ]
    assert len(rows_of(path, encoding="latin-1")) == 3


def events_of(path, **told):
    """All good rows, and the reasons of the wrong ones."""
    wanted = config(path, action="view", **told)
    good, reasons = [], []
    for rows in parts_of(path, **told):
        mapped = map_rows(rows.table, source=wanted, items=ItemsConfig())
        both = clean(rows.table, mapped, source=wanted, now_ms=1_800_000_000_000)
        good += both.filter(both["reason"].is_null()).to_pylist()
        reasons += both["reason"].drop_null().to_pylist()
    return good, reasons


def test_mixed_types_in_a_column_of_json_lines(tmp_path):
    lines = [
        '{"user_id": 7, "item_id": "i", "ts": "2026-11-01T00:00:00Z", "value": 1}',
        '{"user_id": "7", "item_id": 3.0, "ts": "2026-11-01 00:00:00", "value": "1.5"}',
        '{"user_id": 7.0, "item_id": {"id": 1}, "ts": "2026-11-01", "value": null}',
        '{"user_id": 7, "item_id": "i", "ts": 12, "value": 2}',
        '{"user_id": 7, "item_id": "i", "ts": "2026-11-01", "value": [2]}',
        '{"user_id": true, "item_id": "i", "ts": "2026-11-01", "value": "much"}',
    ]
    good, reasons = events_of(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert [row["user_id"] for row in good] == ["7", "7", "7"]
    assert [row["item_id"] for row in good] == ["i", "3", '{"id":1}']
    assert [row["value"] for row in good] == [1, 1.5, None]
    assert reasons == ["value cannot be read"] * 2 + ["no or unparsable ts"]


def test_two_time_zones_in_one_column(tmp_path):
    times = ["2026-11-01T12:00:00+02:00", "2026-11-01T10:00:00Z", "2026-11-01T05:00-05:00"]
    rows = [f"u,i,{ts}" for ts in [*times, "2026-11-01 10:00:00"]]
    path = write(tmp_path / "a.csv", "\n".join(["user_id,item_id,ts", *rows]))
    good, reasons = events_of(path)
    assert {row["ts"].isoformat() for row in good} == {"2026-11-01T10:00:00+00:00"}
    assert len(good) == 4
    assert not reasons


def test_a_corrupt_parquet_file_is_named(tmp_path):
    for name in ("a", "b", "c"):
        path = tmp_path / f"{name}.parquet"
        told = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
        write_parquet(path, {"n": list(range(5_000))}, **told)
    cut = tmp_path / "b.parquet"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"b\.parquet is no parquet that can be read.*; mend it"):
        parts_of(tmp_path)
    cut.unlink()
    harmed = tmp_path / "c.parquet"  # its footer is fine, only the checksum of a page tells
    content = bytearray(harmed.read_bytes())
    content[2_000] ^= 1  # one bit of one number
    harmed.write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.parquet is no parquet that can be read"):
        parts_of(tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_packed_file_that_was_cut_is_named(tmp_path, suffix):
    lines = {"csv": "n\n", "jsonl": '{"n": 0}\n'}[suffix]
    lines += "".join({"csv": f"{n}\n", "jsonl": f'{{"n": {n}}}\n'}[suffix] for n in range(400_000))
    packed = gzip.compress(lines.encode())
    write(tmp_path / f"a.{suffix}.gz", packed[: len(packed) - 10])
    with pytest.raises(ValueError, match=rf"a\.{suffix}\.gz is no {suffix} that can be read: Trun"):
        parts_of(tmp_path)


def test_a_quote_that_nobody_closes_is_guessed(tmp_path):
    lines = "".join(f"{n},x\n" for n in range(200_000))
    path = write(tmp_path / "a.csv", f'a,b\n{lines}1,"x\n{lines}')
    with pytest.raises(ValueError, match=r"a\.csv is no csv .*is a quote opened that nobody"):
        parts_of(path, batch_rows=1_000)


def test_a_column_that_is_there_twice_is_named(tmp_path):
    write(tmp_path / "a.csv", "a,b\n1,2\n")
    write(tmp_path / "b.csv", "a,a\n1,2\n")
    with pytest.raises(ValueError, match=r"b\.csv is no csv .*more than one column 'a'"):
        parts_of(tmp_path)


def appear(tmp_path):
    write(tmp_path / "b.csv", "n\n9\n")


def grow(tmp_path):
    with (tmp_path / "a.csv").open("a") as file:
        file.write("2\n")


def rewrite(tmp_path):
    (tmp_path / "a.csv").write_text("n\n2\n")
    os.utime(tmp_path / "a.csv", ns=(1, 1))


def vanish(tmp_path):
    (tmp_path / "a.csv").unlink()


@pytest.mark.parametrize(
    ("happens", "message"),
    [(grow, "changed since"), (rewrite, "changed since"), (vanish, "is gone since")],
)
def test_a_file_that_changes_is_never_taken_for_what_it_was(tmp_path, happens, message):
    write(tmp_path / "a.csv", "n\n1\n")
    wanted = config(tmp_path)
    source = locate(str(tmp_path), wanted)
    (chunk,) = chunks(source, wanted)
    halfway = read(source, chunk, wanted)
    assert next(halfway).table.to_pylist() == [{"n": "1"}]
    happens(tmp_path)
    with pytest.raises(ValueError, match=rf"a\.csv {message}"):  # noticed after it was read,
        list(halfway)
    with pytest.raises(ValueError, match=rf"a\.csv {message}"):  # and before
        next(read(source, chunk, wanted))


def test_a_parquet_file_that_changed_has_no_chunks(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"n": [1]})
    source = locate(str(path), config(path))
    write_parquet(path, {"n": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"a\.parquet changed since"):
        chunks(source, config(path))


def test_a_file_that_appears_is_for_the_next_run(tmp_path):
    write(tmp_path / "a.csv", "n\n1\n")
    source = locate(str(tmp_path), config(tmp_path))
    appear(tmp_path)
    assert whole(source, config(tmp_path)).to_pylist() == [{"n": "1"}]
    assert len(rows_of(tmp_path)) == 2


def test_what_other_programs_are_writing_is_no_part_of_the_source(tmp_path):
    for name in ("a.csv", "_temporary/0/a.csv", ".staging/a.csv", "_tmp.csv", "_day=1/b.csv"):
        write(tmp_path / name, "n\n1\n")
    assert [row["_day"] for row in rows_of(tmp_path)] == ["1", None]


def test_a_broken_row_of_an_item_table_is_an_error(tmp_path):
    path = write(tmp_path / "a.csv", "item_id,title\n1,one\n2\n")
    with pytest.raises(ValueError, match=r"a\.csv, row 2: 1 columns instead of 2: '2'"):
        whole(locate(str(path), config(path)), config(path))
