"""Which files lie behind a path, a folder, a pattern or a URI, and which columns they have."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from jobs.sources.reading import csv_names, line_names
from models.mapping import SourceConfig

SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".csv.gz", ".tsv"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"),
}
_NULL = "__HIVE_DEFAULT_PARTITION__"
_KEY = re.compile(r"^([^=]+)=(.*)$")


@dataclass(frozen=True)
class File:
    """One file, as it was when it was found."""

    path: str
    size: int
    modified_ns: int
    """0 where the filesystem does not tell."""
    keys: tuple[tuple[str, str | None], ...] = ()
    """Hive partitions below the path that was given: `("day", "2026-11-01")`."""


@dataclass(frozen=True)
class Source:
    """Files of one format, found."""

    filesystem: pafs.FileSystem
    files: tuple[File, ...]
    format: str
    names: tuple[str, ...]
    """The columns of the first file that has any (of JSON lines, the keys of its first lines), then
    the keys of Hive partitions."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the files are."""
        return tuple(file.path for file in self.files)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all Hive partitions."""
        return tuple(dict.fromkeys(key for file in self.files for key, _ in file.keys))


def locate(path: str, config: SourceConfig, key: str = "source") -> Source:
    """Finds the files and looks at the columns of the first that is not empty.

    Args:
        path: see `SourceConfig.path`.
        key: the config section to name in errors.

    Raises:
        ValueError: when nothing is there, the format is unclear, all files are empty, or the first
            that is not cannot be read.
    """
    filesystem, files = _files(path, key)
    kind = (config.format if key == "source" else None) or _format(files, path, key)
    files = [f for f in files if f.path.endswith(SUFFIXES[kind])] or files  # leaves a README out
    source = Source(filesystem, tuple(files), kind, ())
    for file in files:
        try:
            names = _names(source, file, config)
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise ValueError(
                f"{key}.path: {file.path} is no {kind} that can be read: {error}"
            ) from error
        if names:
            return Source(filesystem, source.files, kind, tuple(dict.fromkeys(names + source.keys)))
    raise ValueError(
        f"{key}.path: {files[0].path} is empty"
        + (f", and so are the other {len(files) - 1:,} files" if len(files) > 1 else "")
    )


def _files(path: str, key: str) -> tuple[pafs.FileSystem, list[File]]:
    """All files behind a path, sorted; names that begin with `.` or `_` are left out."""
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
        return filesystem, [_file(info, "")]
    found = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    files = [
        _file(info, root)
        for info in sorted(found, key=lambda info: info.path)
        if info.is_file and not _is_hidden(_below(info.path, root))
    ]
    if pattern:
        files = [file for file in files if fnmatch.fnmatchcase(file.path, pattern)]
    if not files:
        raise ValueError(f"{key}.path: there is no file in {path!r}")
    return filesystem, files


def _below(path: str, root: str) -> list[str]:
    return path[len(root) :].strip("/").split("/")


def _is_hidden(parts: list[str]) -> bool:
    """Whether a file is no part of the data: other programs keep `_temporary/` and `.part` here."""
    return any(part.startswith((".", "_")) and not _KEY.match(part) for part in parts)


def _file(info: pafs.FileInfo, root: str) -> File:
    keys: dict[str, str | None] = {}
    for part in _below(info.path, root)[:-1] if root else ():
        if found := _KEY.match(part):
            keys[unquote(found[1])] = None if found[2] == _NULL else unquote(found[2])
    return File(info.path, info.size or 0, info.mtime_ns or 0, tuple(keys.items()))


def _format(files: list[File], path: str, key: str) -> str:
    kinds = {k for f in files for k, suffixes in SUFFIXES.items() if f.path.endswith(suffixes)}
    if len(kinds) != 1:
        known = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
        raise ValueError(
            f"{key}.path: the format of {path!r} is unclear ({len(kinds)} known kinds of file "
            f"there); known are {known}; or say `source.format`"
        )
    return kinds.pop()


def _names(source: Source, file: File, config: SourceConfig) -> tuple[str, ...]:
    """The file's own columns; none for an empty one."""
    if not file.size:
        return ()
    if source.format == "parquet":
        with source.filesystem.open_input_file(file.path) as opened:
            return distinct(pq.read_schema(opened).names)
    names = csv_names if source.format == "csv" else line_names
    with source.filesystem.open_input_stream(file.path) as stream:  # unpacks .gz by its name
        return distinct(names(stream, config))


def distinct(names: list[str]) -> tuple[str, ...]:
    """The same; raises ArrowInvalid when a column is there twice."""
    twice = [name for name, num in Counter(names).items() if num > 1]
    if twice:
        raise pa.ArrowInvalid(f"it has more than one column {', '.join(map(repr, twice))}")
    return tuple(names)
