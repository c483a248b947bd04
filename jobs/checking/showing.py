"""How the findings of a dry run are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs import console

if TYPE_CHECKING:
    from configs.load import Document
    from jobs.checking.findings import Column, Findings

_WIDTH = 28  # characters of a value
_ROW_WIDTH = 300  # characters of a row that is set aside


def run_check(document: Document) -> None:
    """Checks and shows; raises ValueError where prepare would not go on."""
    from jobs.checking.findings import check

    found = check(document)
    show(found)
    wrong = verdict(found)
    if wrong:
        raise ValueError(wrong)
    console.out.print("prepare would go on with such rows", style="green")


def show(found: Findings) -> None:
    """The findings as tables, then what is wrong and what to do about it."""
    console.out.print(f"source: {found.where}", markup=False, soft_wrap=True)
    console.out.print(f"looked at {_looked(found)}", markup=False, soft_wrap=True)
    _columns("the source", ["column", "type", "feeds"], found.raw, has_type=True)
    if found.is_guess:
        said = "the mapping is wrong; what follows is as if it were mended as said at the end"
        console.out.print(said, style="yellow", soft_wrap=True)
    _columns("as events", ["column", "comes from"], found.events, has_type=False)
    if found.num_rows:
        _figures(found)
    if found.wrong:
        header = ["set aside because of", "rows", "the first (rows counted from 0)"]
        console.table("wrong rows", header, [(w.reason, w.num, w.origin) for w in found.wrong])
        for wrong in found.wrong:
            line = f"  {wrong.reason}: {_cut(wrong.row, _ROW_WIDTH)}"
            console.out.print(line, style="dim", markup=False, soft_wrap=True)
    for number, problem in enumerate(found.problems, 1):
        style = "red" if problem.stops else "yellow"
        console.out.print(f"{number}. {problem.what}", style=style, markup=False, soft_wrap=True)
        if problem.do:
            console.out.print(f"   -> {problem.do}", markup=False, soft_wrap=True)


def verdict(found: Findings) -> str | None:
    """Why prepare would not go on, in a line; None where it would."""
    if found.passes:
        return None
    stops = [str(n) for n, problem in enumerate(found.problems, 1) if problem.stops]
    if stops:
        return f"prepare would not go on: see {', '.join(stops)} above"
    if not found.num_rows:
        return "source.path: there is not one row"
    if not found.num_good:
        return f"source: not one of {found.num_rows:,} rows is good"
    return (
        f"source: {found.num_wrong / found.num_rows:.1%} of the rows are wrong, more than "
        f"prepare.max_quarantine_share = {found.most_wrong:g}"
    )


def _looked(found: Findings) -> str:
    if found.is_whole:
        return f"all {found.num_rows:,} rows"
    of = f" of {found.num_known:,}" if found.num_known else ""
    return (
        f"{found.num_rows:,}{of} rows from all over the source: all figures are of these, and "
        "rows that repeat one elsewhere are not noticed"
    )


def _columns(title: str, header: list[str], columns: Sequence[Column], *, has_type: bool) -> None:
    if not columns:
        return
    num = len(columns[0].values)
    rows = [
        (
            column.name,
            *([column.type] if has_type else []),
            column.about or "-",
            *(_cut(value, _WIDTH) for value in column.values),
        )
        for column in columns
    ]
    console.table(title, [*header, *(f"row {n}" for n in range(num))], rows)


def _figures(found: Findings) -> None:
    def share(num: int, whole: int) -> str:
        return f"{num / whole:.2%}" if whole else "-"

    good = found.num_good
    late = ("-", "-") if found.late is None else (found.late, share(found.late, good))
    rows = [
        ("looked at", found.num_rows, ""),
        ("wrong", found.num_wrong, share(found.num_wrong, found.num_rows)),
        ("good", good, share(good, found.num_rows)),
        *((f"  {action}", num, share(num, good)) for action, num in found.actions.items()),
        (f"repeated (same {found.repeated_by})", found.repeated, share(found.repeated, good)),
        ("arrived after a younger one of the user", *late),
        ("below a younger one in the file", found.unordered, share(found.unordered, good)),
    ]
    if good:
        console.table("rows", ["", "rows", "share"], rows)
        told = [("users", found.users), ("items", found.items)]
        told += [("first event", found.first), ("last event", found.last)]  # type: ignore[list-item]
        console.table("good rows", ["", ""], told)
        splits = [(s.name, s.days, s.events, s.labelled) for s in found.splits]
        header = ["split", "days with events", "events", "of them with a label"]
        console.table("splits", header, splits)


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."
