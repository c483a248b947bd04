"""Where events are read from: files, folders, patterns, URIs, and what can be wrong with them."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.sources import adapter, locate, whole
from models.mapping import SourceConfig


def config(path="x", **given):
    return SourceConfig(path=str(path), **given)


def found(path, **given):
    return locate(str(path), config(path, **given))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "day=1").mkdir()
    for name in ("b.csv", "day=1/a.csv"):
        (tmp_path / name).write_text("who,what\n007,85123A\n")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".hidden.csv").write_text("x\n")
    (tmp_path / "README.md").write_text("notes")
    return tmp_path


def names(source):
    return [path.rsplit("/", 1)[1] for path in source.paths]


def test_a_folder_a_pattern_a_file_and_a_uri(folder, monkeypatch):
    assert names(found(folder)) == ["b.csv", "a.csv"]
    assert names(found(folder / "*" / "*.csv")) == ["a.csv"]
    assert names(found(folder / "b.csv")) == ["b.csv"]
    assert names(found(f"file://{folder}/b.csv")) == ["b.csv"]
    monkeypatch.chdir(folder)
    assert names(found("b.csv")) == ["b.csv"]
    assert found("b.csv").names == ("who", "what")


def test_the_format_may_be_said(tmp_path):
    path = tmp_path / "log"
    path.write_text('{"a": 1}\n{"b": 2}\n')
    assert found(path, format="jsonl").names == ("a", "b")
    with pytest.raises(ValueError, match=r"the format of .* is unclear.*\.parquet"):
        found(path)


def test_text_stays_as_written(folder):
    source = found(folder / "b.csv")
    assert whole(source, config()).to_pylist() == [{"who": "007", "what": "85123A"}]


def test_delimiter_encoding_and_packing(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress("wer;was\nJörg;\n".encode("latin-1")))
    given = {"delimiter": ";", "encoding": "latin-1"}
    assert whole(found(path, **given), config(**given)).to_pylist() == [
        {"wer": "Jörg", "was": None}
    ]
    lines = tmp_path / "a.jsonl.gz"
    lines.write_bytes(gzip.compress(b'{"a": "x"}\n\n{"a": 2}\n'))
    assert whole(found(lines), config()).to_pylist() == [{"a": "x"}, {"a": "2"}]


def test_whole_parquet(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    assert whole(found(tmp_path), config()).to_pylist() == [{"a": 1}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, r"source\.path: there is nothing at"),
        ("a.csv", b"", r"source\.path: .*a\.csv is empty"),
        ("a.jsonl", b"\n\n", r"a\.jsonl is empty"),
        ("a.jsonl", b"who,what\n", r"a\.jsonl is no jsonl that can be read: its first lines"),
        ("a.parquet", b"who,what\n1,2\n3,4\n", r"a\.parquet is no parquet that can be read"),
        ("a.xlsx", b"PK", r"the format of .* is unclear"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        found(tmp_path / name)


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(ValueError, match="there is no file in"):
        found(tmp_path)


def test_an_unknown_adapter_is_named_with_those_there():
    with pytest.raises(ValueError, match=r"no module jobs\.datasets\.shop; .*online_retail"):
        adapter("shop")
    assert adapter(None) is None
    assert callable(adapter("online_retail"))
