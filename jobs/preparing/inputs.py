"""What a document names to be read: its log, the log of the service, and its item table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from configs.load import Document
from jobs.collecting import read_tombstones
from jobs.preparing.cleaning import Cleaning
from jobs.preparing.plan import Plan
from jobs.sources import Chunk, Source, adapter, chunks, locate, whole
from models.config import digest_of
from models.mapping import ItemsConfig, SourceConfig, sources
from models.stores.tombstones import Tombstones, join


@dataclass(frozen=True)
class Inputs:
    """What there is to read."""

    logs: tuple[tuple[Source, SourceConfig, tuple[Chunk, ...]], ...]
    """The source, and the service's own log where there is one."""
    items: pa.Table | None
    """The item table, where the document names one."""
    item_files: tuple[str, ...]
    forgotten: Tombstones
    """What was forgotten in the service, by its log."""

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Of all logs."""
        return tuple(chunk for *_, chunks in self.logs for chunk in chunks)

    @property
    def forgotten_digest(self) -> str:
        """Of what was forgotten."""
        return digest_of(sorted((key.hex(), until) for key, until in self.forgotten.items()))

    def cleaning(self, document: Document, planned: Plan) -> dict[str, Cleaning]:
        """What is done with each chunk, by its id."""
        now_ms = time.time_ns() // 1_000_000
        return {
            chunk.id: Cleaning(
                source=source,
                config=config,
                items=document.items if config is document.source else ItemsConfig(),
                context=document.requests.context,
                slates=document.requests.per == "request",
                has_context=config is document.source,
                forgotten=self.forgotten,
                num_parts=planned.num_parts,
                now_ms=now_ms,
            )
            for source, config, chunks in self.logs
            for chunk in chunks
        }


def find(document: Document) -> Inputs:
    """The source, its columns checked, and the item table if it has one: before Ray is busy."""
    source = locate(document.source.path, document.source)
    if adapter(document.source.adapter) is None:
        sources(
            source.names,
            source=document.source,
            items=document.items,
            context=document.requests.context,
        )
    logs = [(source, document.source, tuple(chunks(source, document.source)))]
    if document.log is not None and Path(document.log).exists():
        config = SourceConfig(path=document.log)
        served = locate(document.log, config, "log")
        logs.append((served, config, tuple(chunks(served, config))))
    roots = (Path(path) for path in (document.source.path, document.log) if path)
    forgotten = join(*(read_tombstones(root) for root in roots if root.is_dir()))
    if document.items.path is None:
        return Inputs(tuple(logs), None, (), forgotten)
    own = locate(document.items.path, document.source, "items")
    files = tuple(f"items {file.path} {file.size} {file.modified_ns}" for file in own.files)
    return Inputs(tuple(logs), whole(own, document.source), files, forgotten)
