"""The ledger of prepared data: every row that was read is kept, a duplicate, or in quarantine.

Plain arithmetic on the counts of chunks and parts; a later run adds to the ledger before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from models.leave_one_out import FEWEST
from models.requests import SPLITS, RequestConfig

if TYPE_CHECKING:
    from configs.load import Document

Ledger = dict[str, Any]
FORGOTTEN = "forgotten at the user's wish"
"""Why an event is left out that a tombstone covers: it is counted, but its row is kept nowhere."""
EMPTY: Ledger = {
    "read": 0,
    "kept": 0,
    "duplicates": 0,
    "quarantined": {},
    "users": 0,
    "items": 0,
    "requests": dict.fromkeys(SPLITS, 0),
    "first_ts": None,
    "last_ts": None,
    "last_arrived": None,
    "late": 0,
}


def grown(
    before: Ledger, chunks: Sequence[dict[str, Any]], parts: Sequence[dict[str, Any]], items: int
) -> Ledger:
    """The ledger after a run.

    Args:
        before: the ledger of what was built upon; `EMPTY` for nothing.
        chunks: counts of what was read.
        parts: by how much the counts of users grew.
        items: how many there are now.

    Raises:
        RuntimeError: when a row read is neither kept, nor a duplicate, nor in quarantine.
    """
    read = reading(before, chunks)
    more = Counter[str]()
    for part in parts:
        more.update(part)
    if sum(chunk["good"] for chunk in chunks) != more["rows"]:
        raise RuntimeError("rows were lost between the chunks and the parts")
    kept, duplicates = before["kept"] + more["num"], before["duplicates"] + more["duplicates"]
    if read["read"] != kept + duplicates + sum(read["quarantined"].values()):
        raise RuntimeError(
            f"the ledger does not add up: read {read['read']}, kept {kept}, duplicates "
            f"{duplicates}, quarantined {sum(read['quarantined'].values())}"
        )
    return {
        **read,
        "kept": kept,
        "duplicates": duplicates,
        "users": before["users"] + more["users"],
        "items": items,
        "requests": {split: before["requests"][split] + more[split] for split in SPLITS},
        "late": before["late"] + more["late"],
    }


def reading(before: Ledger, chunks: Sequence[dict[str, Any]]) -> Ledger:
    """The ledger as far as it is known when everything is read."""
    reasons = Counter(before["quarantined"])
    for chunk in chunks:
        reasons.update(chunk["reasons"])
    found = {
        **before,
        "read": before["read"] + sum(chunk["good"] + chunk["wrong"] for chunk in chunks),
        "quarantined": dict(reasons.most_common()),
    }
    edges = (
        ("first_ts", "first_ms", min),
        ("last_ts", "last_ms", max),
        ("last_arrived", "arrived_ms", max),
    )
    for name, count, choose in edges:
        moments = [chunk[count] for chunk in chunks if chunk[count] is not None]
        if moments:
            told = [found[name]] if found[name] else []
            found[name] = choose([*told, _iso(choose(moments))])
    return found


def check_quarantine(
    chunks: Sequence[dict[str, Any]], document: Document, *, is_first: bool
) -> None:
    """Raises ValueError for no rows, no good rows, or too many wrong ones among those read now.

    Not among all that was ever read: a day that is all wrong would not show beside an archive.
    """
    found = reading(EMPTY, chunks)
    num_read, reasons = found["read"], found["quarantined"]
    if not num_read and not is_first:
        return
    wrong = sum(num for reason, num in reasons.items() if reason != FORGOTTEN)
    path, most = document.source.path, document.prepare.max_quarantine_share
    said = ", ".join(f"{reason}: {num:,}" for reason, num in list(reasons.items())[:4])
    if not num_read:
        raise ValueError(f"source.path: {path} is empty, there is not one row")
    if wrong == num_read:
        raise ValueError(f"source: not one of {num_read:,} rows of {path} is good ({said})")
    if wrong > most * num_read:
        raise ValueError(
            f"source: {wrong / num_read:.1%} of the rows are wrong ({said}), more than "
            f"prepare.max_quarantine_share = {most:g}; mend the mapping, or raise that share. "
            "`python -m jobs.prepare --check` shows what the mapping makes of some rows"
        )


def check_splits(ledger: Ledger, requests: RequestConfig) -> None:
    """Raises ValueError when a split has no request, with times that would do."""
    empty = [split for split, num in ledger["requests"].items() if not num]
    if not empty:
        return
    if requests.split == "leave_one_out":
        raise ValueError(
            f"requests: none in {', '.join(empty)}. No user of {ledger['users']:,} has {FEWEST} "
            f"events {requests.target!r} with an item, which split: leave_one_out needs: see that "
            "requests.target occurs, or split by time"
        )
    first, last = (datetime.fromisoformat(ledger[n]) for n in ("first_ts", "last_ts"))
    early, late = (first + (last - first) * share for share in (0.8, 0.9))
    raise ValueError(
        f"requests: none in {', '.join(empty)}. Events go from {first:%Y-%m-%d} to "
        f"{last:%Y-%m-%d}: try requests.validate_from={early:%Y-%m-%d} and "
        f"requests.test_from={late:%Y-%m-%d}, and see that requests.labels occur"
    )


def _iso(ms: int) -> str:
    """All of one length, so that the order of texts is that of times."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
