"""What a mapping got wrong, and what to write instead: guesses for people, never used by a run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from models.columns import TIME, TimeUnit, as_number, as_text, as_time
from models.events import ACTIONS, REQUIRED
from models.leave_one_out import FEWEST
from models.mapping import SourceConfig
from models.requests import RequestConfig

NAMES: dict[str, list[str]] = {
    name: words.split()
    for name, words in {
        "user_id": "user userid uid customerid customer visitorid memberid clientid accountid "
        "personid reviewerid member who",
        "item_id": "item itemid productid product articleid article sku movieid stockcode asin "
        "videoid trackid jobid contentid docid what",
        "ts": "timestamp time datetime eventtime date createdat occurredat when unixtime "
        "clicktimestamp invoicedate",
        "action": "event eventtype actiontype type behavior behaviour behaviortype "
        "interaction verb",
    }.items()
}
"""How sources name what the contract requires, letters and digits only, the likeliest first."""
WORDS: dict[str, list[str]] = {
    name: words.split()
    for name, words in {
        "impression": "imp shown exposure show",
        "search": "query",
        "view": "pv pageview detail viewed read play watch productview",
        "click": "clk clicked tap",
        "save": "fav favorite favourite wishlist bookmark collect",
        "cart": "addtocart addcart basket",
        "purchase": "buy bought order transaction checkout sale purchased",
        "like": "liked upvote thumbsup",
        "dislike": "downvote thumbsdown",
        "dismiss": "hide hidden skip",
        "cancel": "return refund removefromcart cancelled",
        "apply": "application applied",
    }.items()
}
"""Other words for actions."""
FORMS = (
    *("%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d/%m/%Y"),
    *("%m/%d/%Y", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M %p", "%d.%m.%Y %H:%M:%S"),
    *("%d.%m.%Y %H:%M", "%d.%m.%Y", "%d-%m-%Y %H:%M:%S", "%d-%m-%Y %H:%M", "%d-%m-%Y"),
    *("%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%Y%m%d%H%M%S", "%Y%m%d %H:%M:%S"),
    *("%Y%m%d", "%d %b %Y %H:%M:%S", "%d %b %Y", "%b %d, %Y", "%d/%b/%Y:%H:%M:%S %z"),
    *("%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S %z", "%Y-%m-%d %H:%M:%S UTC"),
)
_NO_TEXT = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")  # in YAML
_FEW = 20  # values: more of them are no vocabulary


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and what to do about it."""

    what: str
    do: str
    stops: bool = False
    """Whether `prepare` would not go on."""


def columns(names: Sequence[str], source: SourceConfig) -> tuple[list[Problem], SourceConfig]:
    """What the mapping names and the source does not have.

    Returns:
        The problems, and the config as it would be with the guesses in place of them.
    """
    problems, better = [], dict(source.columns)
    needed = [*(name for name in REQUIRED if name != "event_id"), "item_id", *source.columns]
    wanted = {name: source.columns.get(name, name) for name in dict.fromkeys(needed)}
    lost = {n: c for n, c in wanted.items() if c is not None and c not in names}
    if source.action:
        lost.pop("action", None)
    for name, column in lost.items():
        guess = _like(name, names)
        what = f"{name}: the source has no column {column!r}"
        if guess is not None:
            better[name] = guess
            do = f"source.columns: {{ {name}: {_yaml(guess)} }}"
        elif name == "action":
            do = f"where all rows are one action, `source.action: view` (one of {_vocabulary()})"
            do += "; else name the column in source.columns.action"
        else:
            better.pop(name, None)
            do = f"name one of {', '.join(names)} in source.columns.{name}"
            do += "" if name in REQUIRED else ", or leave it out"
        problems.append(Problem(what, do, stops=guess is not None or _is_asked(name, source)))
    return problems, source.model_copy(update={"columns": better})


def _is_asked(name: str, source: SourceConfig) -> bool:
    return name in REQUIRED or name in source.columns


def _like(name: str, names: Sequence[str]) -> str | None:
    plain = {re.sub(r"[^a-z0-9]", "", column.lower()): column for column in reversed(names)}
    plain = {key: column for key, column in plain.items() if key}
    words = (*NAMES.get(name, ()), name.replace("_", ""))
    return next((plain[word] for word in words if word in plain), None)


def actions(
    seen: Mapping[str | None, int], column: str, source: SourceConfig, most_wrong: float
) -> tuple[list[Problem], SourceConfig]:
    """Values of the action column that are no action.

    Args:
        seen: each value after `source.actions`, and how many rows have it.
        column: where they come from.
        most_wrong: a larger share of them stops the job.

    Returns:
        The problem, if there is one, and the config with the actions that can be guessed.
    """
    odd = {value: num for value, num in seen.items() if value not in ACTIONS}
    if not odd:
        return [], source
    stops = sum(odd.values()) > most_wrong * sum(seen.values())
    named = [(str(value), num) for value, num in odd.items() if value is not None]
    shown = ", ".join(f"{value!r} ({num:,})" for value, num in named[:8])
    shown += f" and {len(named) - 8:,} more values" if len(named) > 8 else ""
    empty = odd.get(None, 0)
    shown += f"{', and ' if shown else ''}{empty:,} rows without a value" if empty else ""
    what = f"action: values of {column} are not in the vocabulary: {shown}"
    if len(named) > _FEW:
        do = "is this the right column? Where all rows are one action, write `source.action: view`"
        return [Problem(what, f"{do} (one of {_vocabulary()})", stops)], source
    if not named:
        do = "nothing, if these rows may go; else fill them in with an adapter"
        return [Problem(what, do, stops)], source
    pairs = ", ".join(f"{_yaml(value)}: {_action_like(value)}" for value, _ in named)
    do = f"source.actions: {{ {pairs} }}"
    if "?" in do:
        do += f"   with one of {_vocabulary()} for each ?"
    guessed = {v: _action_like(v) for v, _ in named if _action_like(v) != "?"}
    better = source.model_copy(update={"actions": {**source.actions, **guessed}})
    return [Problem(what, do, stops)], better


def _vocabulary() -> str:
    return " ".join(ACTIONS)


def _yaml(value: str) -> str:
    is_plain = re.fullmatch(r"[A-Za-z][\w -]*|\d+", value) and value.lower() not in _NO_TEXT
    return value if is_plain else f"'{value}'"


def _action_like(value: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", value.lower())
    known = {word: name for name, words in WORDS.items() for word in (name, *words)}
    return known.get(plain, "?")


def unit_of(number: float) -> TimeUnit:
    """The unit in which a number since 1970 is a time of our days."""
    return "s" if abs(number) < 1e11 else "ms" if abs(number) < 1e14 else "us"


def read_times(raw: pl.Series, source: SourceConfig) -> pl.Series:
    """The column as the mapping reads it; all null where it has no way to."""
    try:
        return as_time(raw, unit=source.ts_unit, form=source.ts_format)
    except (ValueError, pl.exceptions.PolarsError):
        return pl.Series(raw.name, [None], TIME).new_from_index(0, len(raw))


def times(
    raw: pl.Series, read: pl.Series, name: str, source: SourceConfig, most_wrong: float
) -> tuple[list[Problem], SourceConfig]:
    """Times that cannot be read, or that are read in a wrong unit.

    Args:
        raw: the source's column.
        read: what became of it, see `read_times`.
        name: the contract's column.
        most_wrong: a larger share of unreadable times stops the job.

    Returns:
        The problems, and the config with the guess in place of what is wrong.
    """
    given = as_text(raw.filter(raw.is_not_null())).unique(maintain_order=True).head(2_000)
    lost = as_text(raw.filter(raw.is_not_null() & read.is_null()))
    stops = len(lost) > most_wrong * len(raw)
    lost = lost.unique(maintain_order=True).head(2_000)
    numbers = as_number(given).drop_nulls()
    if isinstance(raw.dtype, pl.Datetime | pl.Date) or not len(given):
        return [], source
    if len(numbers) < len(given) / 2 or (source.ts_format and not len(lost)):
        return _texts(raw.name, lost, name, source, stops)
    forms = [form for form in FORMS if raw.dtype == pl.String and _reads(given, form)]
    if forms:
        return _texts(raw.name, given, name, source, stops)
    unit = unit_of(float(numbers.abs().sort()[len(numbers) // 2]))
    guess = as_time(numbers, unit=unit)
    if unit == source.ts_unit:
        return [], source
    what = f"{name}: times in {raw.name} are numbers such as {given[0]}"
    what += f"; in {source.ts_unit} that is {_when(read)}" if source.ts_unit else ""
    problem = Problem(what, f"source.ts_unit: {unit}   (then it is {_when(guess)})", stops=True)
    return [problem], source.model_copy(update={"ts_unit": unit})


def _texts(
    column: str, lost: pl.Series, name: str, source: SourceConfig, stops: bool
) -> tuple[list[Problem], SourceConfig]:
    """Times in text; `lost` are distinct ones that cannot be read."""
    if not len(lost):
        return [], source
    shown = ", ".join(map(repr, lost.head(4).to_list()))
    what = f"{name}: times in {column} cannot be read, such as {shown}"
    if source.ts_format and not as_time(lost, unit=None).null_count():
        better = source.model_copy(update={"ts_format": None})
        return [Problem(what, "take source.ts_format out: they are ISO 8601", stops)], better
    forms = [form for form in FORMS if _reads(lost, form)]
    if not forms:
        do = "say how they are written in source.ts_format (strptime), such as %d/%m/%Y %H:%M"
        do = f"if they are times, {do}; ISO 8601 needs nothing"
        return [Problem(what, do, stops)], source
    do = f'source.ts_format: "{forms[0]}"'
    do += f'   (or "{forms[1]}": both fit what was seen)' if len(forms) > 1 else ""
    better = source.model_copy(update={"ts_format": forms[0], "ts_unit": None})
    return [Problem(what, do, stops)], better


def _when(read: pl.Series) -> str:
    first = read.drop_nulls()
    return "no time at all" if not len(first) else f"{first[0]:%Y-%m-%d %H:%M}"


def _reads(some: pl.Series, form: str) -> bool:
    try:
        return not as_time(some, unit=None, form=form).null_count()
    except (ValueError, pl.exceptions.PolarsError):
        return False


def unused(names: Sequence[str], used: Sequence[str]) -> list[Problem]:
    """Columns that nothing reads; a remark, for a column may be of no use."""
    idle = [name for name in names if name not in used]
    if not idle:
        return []
    do = "fine, if they tell nothing of the event; else map them in source.columns, or in "
    do += "items.columns (fields of the item) or requests.context (known when a request is made)"
    return [Problem(f"columns that nothing uses: {', '.join(idle)}", do)]


def splits(
    labelled: pl.Series, counts: Mapping[str, int], requests: RequestConfig, seen: Counter[str]
) -> list[Problem]:
    """Splits without an outcome, and labels that never happen.

    Args:
        labelled: times of events that have a label.
        counts: such events in each split.
        seen: events of each action.
    """
    labels = requests.labels
    missing = [label for label in labels if not seen[label]]
    found = [name for name in seen if ACTIONS[name].polarity > 0]
    problems = [
        Problem(
            f"requests.labels: no event has the action {', '.join(missing)}",
            f"requests.labels: [{', '.join(found) or 'view'}]   (those that were seen)",
            stops=len(missing) == len(labels),
        )
    ] * bool(missing)
    empty = [name for name, num in counts.items() if not num]
    if empty and len(labelled) and requests.split == "leave_one_out":
        what = f"no user of the sample has {FEWEST} events {requests.target!r} with an item"
        do = "see that requests.target occurs, or split by time"
        problems.append(Problem(what, do, stops=False))
    elif empty and len(labelled):
        low, high = (datetime.fromtimestamp(t / 1000, UTC) for t in good_splits(labelled))
        form = "%Y-%m-%d" if low.date() < high.date() else "%Y-%m-%dT%H:%M"
        do = f"requests: {{ validate_from: {low:{form}}, test_from: {high:{form}} }}"
        what = f"no event with a label falls into {', '.join(empty)}"
        problems.append(Problem(what, f"{do}   (after 80 % and 90 % of them)", stops=True))
    return problems


def good_splits(labelled: pl.Series) -> tuple[int, int]:
    """Milliseconds at the beginning of the day, where there are enough days, of 80 and 90 %."""
    ms = labelled.cast(pl.Int64).sort()
    low, high = (int(ms[int(len(ms) * share)]) for share in (0.8, 0.9))
    day = 86_400_000
    if int(ms[0]) // day < low // day < high // day:
        return low // day * day, high // day * day
    return low, high
