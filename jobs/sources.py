"""Where events are read from: files behind a path, a folder, a pattern or a URI, as Ray blocks."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import io
import pkgutil
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

import jobs.datasets
from models.columns import LINE, REASON, parse_lines
from models.mapping import SourceConfig

if TYPE_CHECKING:
    import ray.data

Adapter = Callable[[pa.Table], pa.Table]
SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".csv.gz", ".tsv"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"),
}
_PEEK_LINES = 1000


@dataclass(frozen=True)
class Source:
    """Files of one format, found."""

    filesystem: pafs.FileSystem
    paths: tuple[str, ...]
    format: str
    names: tuple[str, ...]
    """The columns of the first file; of JSON lines, the keys of its first lines."""


def locate(path: str, config: SourceConfig, key: str = "source") -> Source:
    """Finds the files and looks at the columns of the first.

    Args:
        path: see `SourceConfig.path`.
        key: the config section to name in errors.

    Raises:
        ValueError: when nothing is there, the format is unclear, or the first file is empty or
            cannot be read.
    """
    filesystem, paths = _files(path, key)
    kind = (config.format if key == "source" else None) or _format(paths, path, key)
    paths = [p for p in paths if p.endswith(SUFFIXES[kind])] or paths  # leaves a README out
    try:
        names = _names(filesystem, paths[0], kind, config)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{key}.path: {paths[0]} is no {kind} that can be read: {error}"
        ) from error
    if not names:
        raise ValueError(f"{key}.path: {paths[0]} is empty")
    return Source(filesystem, tuple(paths), kind, tuple(names))


def _files(path: str, key: str) -> tuple[pafs.FileSystem, list[str]]:
    """All files behind a path, sorted; hidden ones and those that begin with `_` are left out."""
    if re.match(r"^[a-z][a-z0-9+.-]*://", path):
        filesystem, root = pafs.FileSystem.from_uri(path)
    else:
        filesystem, root = pafs.LocalFileSystem(), Path(path).absolute().as_posix()
    pattern = root if any(c in root for c in "*?[") else None
    while pattern and any(c in root for c in "*?["):
        root = posixpath.dirname(root)
    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        raise ValueError(f"{key}.path: there is nothing at {path!r} (looked in {Path.cwd()})")
    if info.type == pafs.FileType.File:
        return filesystem, [root]
    found = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    paths = sorted(f.path for f in found if f.is_file and not f.base_name.startswith((".", "_")))
    if pattern:
        paths = [p for p in paths if fnmatch.fnmatchcase(p, pattern)]
    if not paths:
        raise ValueError(f"{key}.path: there is no file in {path!r}")
    return filesystem, paths


def _format(paths: list[str], path: str, key: str) -> str:
    kinds = {k for p in paths for k, suffixes in SUFFIXES.items() if p.endswith(suffixes)}
    if len(kinds) != 1:
        known = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
        raise ValueError(
            f"{key}.path: the format of {path!r} is unclear ({len(kinds)} known kinds of file "
            f"there); known are {known}; or say `source.format`"
        )
    return kinds.pop()


def _names(filesystem: pafs.FileSystem, path: str, kind: str, config: SourceConfig) -> list[str]:
    if kind == "parquet":
        with filesystem.open_input_file(path) as file:
            return list(pq.read_schema(file).names)
    with filesystem.open_input_stream(path) as stream:
        if kind == "csv":
            return list(pacsv.open_csv(stream, **_csv_options(config)).schema.names)
        lines = list(islice(io.TextIOWrapper(stream, config.encoding), _PEEK_LINES))
    if not any(line.strip() for line in lines):
        return []
    parsed = parse_lines(pa.table({LINE: pa.array(lines, pa.string())}))
    names = [name for name in parsed.column_names if name != REASON]
    if not names:
        raise pa.ArrowInvalid("its first lines are no JSON objects")
    return names


def _csv_options(config: SourceConfig, names: Sequence[str] = ()) -> dict[str, Any]:
    """Every column as text: to guess types would cost `00123` its zeros and stumble on `85123A`."""
    return {
        "read_options": pacsv.ReadOptions(encoding=config.encoding),
        "parse_options": pacsv.ParseOptions(delimiter=config.delimiter, newlines_in_values=True),
        "convert_options": pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    }


def blocks(source: Source, config: SourceConfig) -> ray.data.Dataset:
    """The rows of all files as a Ray dataset; JSON lines as they are, in the column `LINE`."""
    import ray.data

    paths, filesystem = list(source.paths), source.filesystem
    if source.format == "parquet":
        return ray.data.read_parquet(
            paths, filesystem=filesystem, file_extensions=None, partitioning=None
        )
    if source.format == "csv":
        options = {"partitioning": None, **_csv_options(config, source.names)}
        return ray.data.read_csv(paths, filesystem=filesystem, **options)
    lines: ray.data.Dataset = ray.data.read_text(
        paths, filesystem=filesystem, encoding=config.encoding
    )
    return lines.map_batches(lambda block: block.rename_columns([LINE]), batch_format="pyarrow")


def whole(source: Source, config: SourceConfig) -> pa.Table:
    """All rows as one table in this process: for item tables."""
    tables = []
    for path in source.paths:
        if source.format == "parquet":
            tables.append(pq.read_table(path, filesystem=source.filesystem, partitioning=None))
            continue
        with source.filesystem.open_input_stream(path) as file:  # unpacks .gz by its name
            if source.format == "csv":
                tables.append(pacsv.read_csv(file, **_csv_options(config, source.names)))
            else:
                lines = io.TextIOWrapper(file, config.encoding).read().split("\n")
                column = pa.array([line for line in lines if line.strip()], pa.string())
                tables.append(parse_lines(pa.table({LINE: column})).drop([REASON]))
    return pa.concat_tables(tables, promote_options="permissive")


def adapter(name: str | None) -> Adapter | None:
    """The `adapt` of a module of `jobs/datasets`.

    Raises:
        ValueError: when there is no such module, or it has no `adapt`.
    """
    if name is None:
        return None
    path = f"jobs.datasets.{name}"
    if importlib.util.find_spec(path) is None:
        here = sorted(m.name for m in pkgutil.iter_modules(jobs.datasets.__path__))
        raise ValueError(f"source.adapter: no module {path}; there are {', '.join(here)}")
    found = getattr(importlib.import_module(path), "adapt", None)
    if found is None:
        raise ValueError(f"source.adapter: {path} has no function `adapt(table) -> table`")
    return cast(Adapter, found)
