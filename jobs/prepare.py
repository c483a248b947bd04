"""prepare: from a log of events to histories, requests and a catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import console

if TYPE_CHECKING:
    import pyarrow as pa

    from configs.load import Document
    from jobs.preparing.building import Building
    from jobs.preparing.inputs import Inputs
    from jobs.preparing.plan import Plan

Check = Annotated[
    bool,
    typer.Option(
        "--check", help="Only look: what the mapping makes of some rows, and what is wrong."
    ),
]
Anew = Annotated[bool, typer.Option("--anew", help="Build everything again, not only what is new.")]


def main(
    config: console.ConfigFile,
    overrides: console.Overrides = None,
    check: Check = False,
    anew: Anew = False,
) -> None:
    """Cleans a log of events and writes histories, point-in-time requests and a catalogue.

    \b
    Reads what `source` in the document names, and of that only what it has not read yet; writes
    runs/<name>/prepared/: a manifest, and generations of
      histories/    each user's events, once     users/   the state of their memory
      requests/     what was asked when, what came of it, what memory said just before
      catalogue.parquet, quarantine/ (the rows turned away, with file, number and reason)
    A run that is cut off goes on where it was when it is started again.

    \b
    Examples:
      python -m jobs.prepare --config configs/online_retail.yaml
      python -m jobs.prepare --config mine.yaml --check
      python -m jobs.prepare --config configs/ml_100k.yaml --set requests.per=session
      python -m jobs.prepare --config mine.yaml --set source.path=s3://bucket/events/
    """  # noqa: D301  # the backspace tells click to keep the lines of a paragraph
    from configs.load import load
    from jobs.preparing.inputs import find

    document = load(config, overrides or [])
    if check:
        from jobs.checking.showing import run_check

        run_check(document)
        return
    inputs = find(document)  # what can be wrong is told before Ray has to start
    with console.ray_session():
        ledger = prepare(document, inputs, anew=anew)
    show(ledger)
    console.out.print(f"prepared: {document.folder / 'prepared'}", soft_wrap=True)


def prepare(
    document: Document, inputs: Inputs | None = None, *, anew: bool = False
) -> dict[str, Any]:
    """Runs all steps on the Ray that is there and returns the ledger.

    Reads what is new since the last run, or everything where that cannot be built upon. A run that
    was cut off goes on where it was.

    Args:
        inputs: what `find` gave, where it has been called already.
        anew: build everything again.

    Raises:
        ValueError: when the source is missing, empty or mostly wrong, or the split times leave a
            split without requests. What was prepared before is still there then.
    """
    from jobs.files import NoSpaceError
    from jobs.preparing.inputs import find
    from jobs.preparing.plan import abandon, plan, working

    found = inputs or find(document)
    why = "told to" if anew else None
    while True:
        planned = plan(
            document,
            found.chunks,
            found.item_files,
            forgotten=found.forgotten_digest,
            anew=why,
        )
        if planned.is_idle and planned.manifest:
            console.out.print("  nothing new: what is prepared is up to date", soft_wrap=True)
            ledger: dict[str, Any] = planned.manifest["ledger"]
            return ledger
        console.out.print(f"  {planned.why}", soft_wrap=True)
        with working(planned):
            try:
                return _made(document, found, planned)
            except StaleError as error:
                abandon(planned)
                why = str(error)
            except NoSpaceError:
                raise
            except ValueError:
                abandon(planned)
                raise


class StaleError(Exception):
    """What is prepared cannot be built upon after all."""


def _made(document: Document, found: Inputs, planned: Plan) -> dict[str, Any]:
    """Writes the generation of a plan."""
    from jobs.preparing import pipeline
    from jobs.preparing.ledger import EMPTY, check_quarantine, check_splits, grown
    from jobs.preparing.plan import commit
    from models.catalogue import Catalogue

    pipeline.quiet()
    before = planned.manifest["ledger"] if planned.manifest else EMPTY
    with console.step("read and clean the log") as note:
        cleaned = _waited(
            pipeline.clean(planned.chunks, found.cleaning(document, planned), planned.target),
            len(planned.chunks),
            note,
        )
        note(f"{sum(c['good'] + c['wrong'] for c in cleaned):,} rows")
    check_quarantine(cleaned, document, is_first=planned.manifest is None)
    with console.step("gather the catalogue") as note:
        items = gather(document, found, planned)
        note(f"{len(items):,} items")
    with console.step("histories and requests by user") as note:
        building = building_of(document, planned)
        parts = _waited(
            pipeline.build(building, items, document.catalogue), planned.num_parts, note
        )
        ledger = grown(before, cleaned, parts, len(items))
        note(f"{ledger['users']:,} users")
    check_splits(ledger, document.requests)
    Catalogue(items, document.catalogue).save(planned.target / "catalogue.parquet")
    commit(planned, document, ledger)
    return ledger


def _waited(counts: Iterator[dict[str, Any]], num: int, note: console.Note) -> list[dict[str, Any]]:
    """All counts; how far they are is told on the way."""
    done = []
    for one in counts:
        done.append(one)
        note.progress(len(done), num)
    return done


def gather(document: Document, found: Inputs, planned: Plan) -> pa.Table:
    """The item table of everything read so far; the first events of items are kept beside it.

    Raises:
        StaleError: when an item that is known already now counts for another interest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs.files import write_table
    from jobs.preparing.cleaning import items_of
    from models.catalogue import Catalogue
    from models.items import catalogue_table, first_rows
    from models.leave_one_out import always_known

    old = planned.parents[-1:]
    firsts = [pq.read_table(parent / "items.parquet") for parent in old]
    firsts += items_of(planned.target, [chunk.id for chunk in planned.chunks])
    first = first_rows(pa.concat_tables(firsts, promote_options="permissive"))
    write_table(first, planned.target / "items.parquet")
    items = catalogue_table(
        first,
        catalogue=document.catalogue,
        items=document.items,
        source=document.source,
        own=found.items,
    )
    if document.requests.split == "leave_one_out":
        items = always_known(items)
    now = Catalogue(items, document.catalogue)
    for parent in old:
        known = Catalogue.load(parent / "catalogue.parquet", document.catalogue)
        moved = (known.interests(known.keys) != now.interests(known.keys)).sum()
        if moved:
            raise StaleError(f"{moved} item(s) now count for another interest: all is built anew")
    return items


def building_of(document: Document, planned: Plan) -> Building:
    """What is done with each part of the users."""
    from jobs.preparing.building import Building

    return Building(
        folder=planned.target.absolute(),
        chunks=tuple(chunk.id for chunk in planned.chunks),
        parents=tuple(parent.absolute() for parent in planned.parents),
        everyone=planned.everyone,
        num_parts=planned.num_parts,
        requests=document.requests,
        memory=document.memory,
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
        ("arrived out of order", f"{ledger['late'] / ledger['kept']:.2%}"),
    ]
    console.table("made of them", ["", ""], made)


if __name__ == "__main__":
    console.run(main)
