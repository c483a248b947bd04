"""Other runs to compare with: found by document or folder, and refused when they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from configs.load import Document
from jobs.beside import report_at, run_at, same_requests
from tests.jobs import retail

TABLE = pa.table(
    {
        "request_id": ["a", "b"],
        "user_id": ["u", "v"],
        "as_of": [1, 2],
        "split": ["train", "test"],
        "items": pa.array([[1, 2], [3]], pa.list_(pa.uint64())),
        "labels": pa.array([[1, 1], [1]], pa.list_(pa.uint8())),
        "user_features": [0.5, 0.25],
    }
)


def written(folder: Path) -> Document:
    document = retail.document(folder / "lines.parquet", folder)
    model = document.folder / "model"
    model.mkdir(parents=True)
    (model / "model.json").write_text(json.dumps({"config": document.model_dump(mode="json")}))
    return document


def test_a_run_is_found_by_its_folder_wherever_that_was_moved(tmp_path: Path):
    document = written(tmp_path)
    assert run_at(str(document.folder), "beside") == document
    document.folder.rename(tmp_path / "moved")
    found = run_at(str(tmp_path / "moved"), "beside")
    assert (found.folder, found.model) == (tmp_path / "moved", document.model)


def test_a_run_is_found_by_its_document():
    assert run_at(str(retail.CONFIG), "beside").name == "online_retail"


def test_what_is_no_run_is_told_by_its_place(tmp_path: Path):
    with pytest.raises(ValueError, match=r"evaluate\.beside\.other: .* neither a document nor"):
        run_at(str(tmp_path / "nowhere"), "evaluate.beside.other")
    folder = written(tmp_path).folder
    (folder / "model" / "model.json").write_text('{"config": {"name": 1}}')
    with pytest.raises(ValueError, match=r"evaluate\.beside\.other: .* not of this version"):
        run_at(str(folder), "evaluate.beside.other")


def test_requests_are_the_same_whatever_was_read_of_memory():
    read = TABLE.drop_columns(["user_features"]).append_column("more", [[0], [1]])
    assert same_requests(read) == same_requests(TABLE)
    assert same_requests(pa.concat_tables([TABLE[:1], TABLE[1:]])) == same_requests(TABLE)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("request_id", ["a", "c"]),
        ("user_id", ["u", "w"]),
        ("as_of", [1, 3]),
        ("split", ["train", "validate"]),
        ("items", [[1], [2, 3]]),
        ("labels", [[1, 1], [2]]),
    ],
)
def test_other_requests_are_others(column, values):
    place = TABLE.schema.get_field_index(column)
    other = TABLE.set_column(place, column, pa.array(values, TABLE.schema.field(place).type))
    assert same_requests(other) != same_requests(TABLE)


def test_a_seed_that_was_not_evaluated_says_what_to_run(tmp_path: Path):
    with pytest.raises(ValueError, match=r"evaluate\.seeds: .*report.json is not there; run"):
        report_at(str(tmp_path))
