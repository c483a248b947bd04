"""What a run of `prepare` has to do: all of it, the files that are new, or nothing.

A folder of prepared data is a list of generations in its manifest. A run writes one more, or one
that stands for all, and then the manifest. The name of a generation is a digest of what goes into
it, so a run that was cut off finds what it had done, and another run does not take it for its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from configs.load import Document
from jobs.files import alone, write_json
from jobs.prepared import FORMAT, digests
from jobs.sources import Chunk
from models.config import digest_of

ROWS_OF_A_PART = 1_000_000
_BYTES_OF_A_ROW = 100  # of a text file, roughly: its rows are not known before it is read


@dataclass(frozen=True)
class Plan:
    """One generation to write."""

    folder: Path
    """Of all prepared data."""
    manifest: dict[str, Any] | None
    """What is built upon; None: everything is built anew."""
    chunks: tuple[Chunk, ...]
    """What is to be read."""
    inputs: tuple[str, ...]
    """Ids of all that will have been read, item tables too."""
    num_parts: int
    everyone: bool
    """Whether users without new rows are written again, so that one generation holds all."""
    forgotten: str
    """A digest of what is left out."""
    why: str
    """In words."""
    generation: str

    @property
    def target(self) -> Path:
        """The generation to write."""
        return self.folder / self.generation

    @property
    def parents(self) -> tuple[Path, ...]:
        """Generations to build upon, the oldest first."""
        return tuple(self.folder / n for n in self.manifest["generations"]) if self.manifest else ()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return self.manifest is not None and set(self.inputs) == set(self.manifest["inputs"])


def plan(
    document: Document,
    chunks: Sequence[Chunk],
    items: Sequence[str],
    *,
    forgotten: str = "",
    anew: str | None = None,
) -> Plan:
    """Compares what is there to read with what was read.

    Args:
        chunks: all that the source has now.
        items: ids of the files of the item table.
        forgotten: a digest of what must be left out.
        anew: why nothing that is there can be built upon, if so.
    """
    folder = document.folder / "prepared"
    there = manifest = _manifest(folder)
    ids = {chunk.id for chunk in chunks}
    if manifest is None:
        why = "nothing is prepared yet"
    else:
        why = anew or _unfit(manifest, document, ids, forgotten)
        manifest = None if why else manifest
    known = set(manifest["inputs"]) if manifest else set()
    new = tuple(chunk for chunk in chunks if chunk.id not in known)
    everyone = manifest is None
    if manifest:
        everyone = len(manifest["generations"]) >= document.prepare.max_generations
        why = f"{len(new)} new of {len(chunks)} piece(s) of the log"
    num_parts = manifest["num_parts"] if manifest else _num_parts(document, chunks)
    # What is there goes in even where nothing is built upon it: its folder is not written into.
    read = [*(chunk.id for chunk in new), *items, forgotten]
    told = [FORMAT, digests(document), num_parts, everyone, read, (there or {}).get("generations")]
    return Plan(
        folder=folder,
        manifest=manifest,
        chunks=new,
        inputs=(*(chunk.id for chunk in chunks), *items),
        num_parts=num_parts,
        everyone=everyone,
        forgotten=forgotten,
        why=why,
        generation=digest_of(told),
    )


def _manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _unfit(
    manifest: dict[str, Any], document: Document, ids: set[str], forgotten: str
) -> str | None:
    """Why what is prepared cannot be built upon."""
    if manifest.get("format") != FORMAT:
        return "what is prepared is of another format"
    made, wanted = manifest["digests"], digests(document)
    changed = [name for name in wanted if made.get(name) != wanted[name]]
    if changed:
        return f"the configuration of {', '.join(changed)} has changed"
    if document.prepare.num_partitions not in (None, manifest["num_parts"]):
        return "prepare.num_partitions has changed"
    if manifest["forgotten"] != forgotten:
        return "something was forgotten in the service since: it must be in no generation"
    gone = [one for one in manifest["inputs"] if one not in ids and not one.startswith("items ")]
    if gone:
        return f"{len(gone)} piece(s) of the log that were read have changed or are gone"
    return None


def _num_parts(document: Document, chunks: Sequence[Chunk]) -> int:
    """Parts so small that a worker holds one easily, also when the log has grown for a while."""
    if document.prepare.num_partitions:
        return document.prepare.num_partitions
    rows = sum(c.num_rows or c.file.size // _BYTES_OF_A_ROW for c in chunks)
    return max(4, -(-rows // ROWS_OF_A_PART))


@contextmanager
def working(plan: Plan) -> Iterator[None]:
    """Alone in the folder, with half-done work of other plans cleared away.

    Raises:
        ValueError: when another process prepares there.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    taken = (
        f"{plan.folder}: another `jobs.prepare` is at work there; wait for it, or give this one "
        "another `runs` or `name`"
    )
    with alone(plan.folder / ".lock", taken):
        _clear(plan, [path.name for path in plan.parents] + [plan.generation])
        yield


def commit(plan: Plan, document: Document, ledger: dict[str, Any]) -> None:
    """Makes the generation count; what it stands for is removed."""
    parents = [] if plan.everyone else [path.name for path in plan.parents]
    if plan.everyone:
        for parent in plan.parents:  # rows turned away are read once and kept
            if (parent / "quarantine").is_dir():
                shutil.copytree(
                    parent / "quarantine", plan.target / "quarantine", dirs_exist_ok=True
                )
    manifest = {
        "format": FORMAT,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "generations": [*parents, plan.generation],
        "num_parts": plan.num_parts,
        "ledger": ledger,
        "inputs": list(plan.inputs),
        "forgotten": plan.forgotten,
        "digests": digests(document),
        "config": document.model_dump(mode="json"),
    }
    write_json(manifest, plan.folder / "manifest.json")
    _clear(plan, manifest["generations"])
    for name in ("chunks", "parts"):
        shutil.rmtree(plan.target / name, ignore_errors=True)


def _clear(plan: Plan, keep: Sequence[str]) -> None:
    """Removes the generations that are not among `keep`, and what older formats left."""
    manifest = _manifest(plan.folder) or {}
    kept = {*keep, *manifest.get("generations", ())}
    for path in plan.folder.iterdir():
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def abandon(plan: Plan) -> None:
    """Removes what a run wrote that cannot end well; what was prepared before is untouched."""
    shutil.rmtree(plan.target, ignore_errors=True)
    if _manifest(plan.folder) is None:
        shutil.rmtree(plan.folder, ignore_errors=True)
