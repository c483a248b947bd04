"""prepare: from a log of events to histories, requests and a catalogue."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jobs import console

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from configs.load import Document
    from jobs.sources import Source


def main(config: console.ConfigFile, overrides: console.Overrides = None) -> None:
    """Cleans a log of events and writes histories, point-in-time requests and a catalogue.

    \b
    Reads what `source` in the document names and writes runs/<name>/prepared/:
      users/        each user's history, once, and the state of their memory
      requests/     what was asked when, what came of it, what memory said just before
      catalogue.parquet, quarantine/ (the rows turned away, with reasons), ledger.json

    \b
    Examples:
      python -m jobs.prepare --config configs/online_retail.yaml
      python -m jobs.prepare --config configs/ml_100k.yaml --set requests.per=session
      python -m jobs.prepare --config mine.yaml --set source.path=s3://bucket/events/
    """  # noqa: D301  # the backspace tells click to keep the lines of a paragraph
    from configs.load import load

    document = load(config, overrides or [])
    found = find(document)  # what can be wrong is told before Ray has to start
    with console.ray_session():
        ledger = prepare(document, found)
    show(ledger)
    console.out.print(f"prepared: {document.folder / 'prepared'}", soft_wrap=True)


def prepare(
    document: Document, found: tuple[Source, pa.Table | None] | None = None
) -> dict[str, Any]:
    """Runs all steps on the Ray that is there and returns the ledger.

    Args:
        document: says what to read and how.
        found: what `find` gave, where it has been called already.

    Raises:
        ValueError: when the source is missing, empty or mostly wrong, or the split times leave a
            split without requests. Nothing is written then.
    """
    from jobs import pipeline
    from jobs.prepared import replacing, write_manifest
    from models.items import catalogue_table

    source, own = found or find(document)
    pipeline.quiet()
    with replacing(document.folder / "prepared") as folder:
        with console.step("read and clean the rows") as note:
            rows = pipeline.cleaned(source, document, now_ms=time.time_ns() // 1_000_000)
            num_read = rows.count()
            note(f"{num_read:,} rows of {len(source.paths)} file(s)")
        with console.step("set wrong rows aside") as note:
            reasons = pipeline.reasons(rows) if num_read else {}
            note(f"{sum(reasons.values()):,} rows")
            check_quarantine(num_read, reasons, document)
            if reasons:
                pipeline.write_quarantine(rows, folder / "quarantine")
        with console.step("gather the catalogue") as note:
            items = catalogue_table(
                pipeline.first_events(rows),
                catalogue=document.catalogue,
                items=document.items,
                source=document.source,
                own=own,
            )
            note(f"{len(items):,} items")
        with console.step("histories and requests by user") as note:
            parts = pipeline.write_parts(rows, folder, document=document, catalogue=items)
            note(f"{sum(part['users'] for part in parts):,} users")
        ledger = balance(num_read, reasons, parts, len(items))
        check_splits(ledger)
        _write(folder, items, document, ledger)
        write_manifest(folder, document, datetime.now(UTC).isoformat(timespec="seconds"))
    return ledger


def find(document: Document) -> tuple[Source, pa.Table | None]:
    """The source, its columns checked, and the item table if it has one: before Ray is busy."""
    from jobs.sources import adapter, locate, whole
    from models.mapping import sources

    source = locate(document.source.path, document.source)
    if adapter(document.source.adapter) is None:
        sources(
            source.names,
            source=document.source,
            items=document.items,
            context=document.requests.context,
        )
    if document.items.path is None:
        return source, None
    return source, whole(locate(document.items.path, document.source, "items"), document.source)


def check_quarantine(num_read: int, reasons: dict[str, int], document: Document) -> None:
    """Raises ValueError for no rows, no good rows, or too many wrong ones."""
    wrong = sum(reasons.values())
    path, most = document.source.path, document.prepare.max_quarantine_share
    said = ", ".join(f"{reason}: {num:,}" for reason, num in list(reasons.items())[:4])
    if not num_read:
        raise ValueError(f"source.path: {path} is empty, there is not one row")
    if wrong == num_read:
        raise ValueError(f"source: not one of {num_read:,} rows of {path} is good ({said})")
    if wrong > most * num_read:
        raise ValueError(
            f"source: {wrong / num_read:.1%} of the rows are wrong ({said}), more than "
            f"prepare.max_quarantine_share = {most:g}; mend the mapping, or raise that share"
        )


def balance(
    num_read: int, reasons: dict[str, int], parts: list[dict[str, Any]], num_items: int
) -> dict[str, Any]:
    """The ledger of all parts.

    Raises:
        RuntimeError: when a row read is neither kept, nor a duplicate, nor in quarantine.
    """
    total = {n: sum(p[n] for p in parts) for n in parts[0] if n not in ("first_ms", "last_ms")}
    wrong = sum(reasons.values())
    if num_read != total["kept"] + total["duplicates"] + wrong:
        raise RuntimeError(
            f"the ledger does not add up: read {num_read}, kept {total['kept']}, duplicates "
            f"{total['duplicates']}, quarantined {wrong}"
        )
    return {
        "read": num_read,
        "kept": total["kept"],
        "duplicates": total["duplicates"],
        "quarantined": reasons,
        "users": total["users"],
        "items": num_items,
        "requests": {split: total[split] for split in ("train", "validate", "test")},
        "first_ts": _iso(min(p["first_ms"] for p in parts if p["kept"])),
        "last_ts": _iso(max(p["last_ms"] for p in parts if p["kept"])),
        "late_share": total["late"] / total["kept"],
    }


def check_splits(ledger: dict[str, Any]) -> None:
    """Raises ValueError when a split has no request, with times that would do."""
    empty = [split for split, num in ledger["requests"].items() if not num]
    if not empty:
        return
    first, last = (datetime.fromisoformat(ledger[n]) for n in ("first_ts", "last_ts"))
    early, late = (first + (last - first) * share for share in (0.8, 0.9))
    raise ValueError(
        f"requests: none in {', '.join(empty)}. Events go from {first:%Y-%m-%d} to "
        f"{last:%Y-%m-%d}: try requests.validate_from={early:%Y-%m-%d} and "
        f"requests.test_from={late:%Y-%m-%d}, and see that requests.labels occur"
    )


def show(ledger: dict[str, Any]) -> None:
    """The ledger as tables."""
    read = ledger["read"]
    wrong = sum(ledger["quarantined"].values())
    lines = [
        ("read", read),
        ("kept", ledger["kept"]),
        ("duplicates", ledger["duplicates"]),
        ("quarantined", wrong),
        *((f"  {reason}", num) for reason, num in ledger["quarantined"].items()),
    ]
    console.table("rows", ["", "rows", "share"], [(a, b, f"{b / read:.1%}") for a, b in lines])
    made = [
        ("users", ledger["users"]),
        ("items", ledger["items"]),
        *((f"requests to {split}", num) for split, num in ledger["requests"].items()),
        ("first event", ledger["first_ts"]),
        ("last event", ledger["last_ts"]),
        ("arrived out of order", f"{ledger['late_share']:.2%}"),
    ]
    console.table("made of them", ["", ""], made)


def _write(folder: Path, items: pa.Table, document: Document, ledger: dict[str, Any]) -> None:
    from models.catalogue import Catalogue

    Catalogue(items, document.catalogue).save(folder / "catalogue.parquet")
    (folder / "ledger.json").write_text(json.dumps(ledger, indent=2) + "\n")


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


if __name__ == "__main__":
    console.run(main)
