"""What the endpoints take and give. JSON, snake_case, times in RFC 3339.

Requests are strict: an unknown field is an error, a text is no number. Replies are dumped from
plain dicts on the hot path; their models here document them (OpenAPI) and tests check against them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from models.events import MAX_ID_BYTES

MAX_BODY_BYTES = 1_000_000
MAX_EVENTS = 1_000
MAX_PAGE = 100
MAX_QUERY = 512
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})")


def check_id(value: str) -> str:
    """An id as `models.events` takes it."""
    if not 0 < len(value.encode()) <= MAX_ID_BYTES or "\0" in value:
        raise ValueError(f"an id has 1 to {MAX_ID_BYTES} bytes and no zero byte")
    return value


def millis(value: object) -> int:
    """RFC 3339 text to milliseconds since 1970."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("a time is RFC 3339 text with a zone, such as 2011-12-09T12:50:00Z")
    try:
        moment = datetime.fromisoformat(value.upper())
    except ValueError as error:  # 30 February
        raise ValueError(f"no such time: {error}") from None
    return round(moment.timestamp() * 1000)


def rfc3339(ms: int) -> str:
    """Milliseconds since 1970 as RFC 3339 text in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


Id = Annotated[str, AfterValidator(check_id)]
Time = Annotated[
    int, BeforeValidator(millis), WithJsonSchema({"type": "string", "format": "date-time"})
]
"""Milliseconds since 1970; RFC 3339 text outside."""
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Body(BaseModel):
    """A request body: frozen, and strict about fields and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Range(Body):
    """Bounds of a numeric field, both included."""

    min: Finite | None = None
    max: Finite | None = None

    @model_validator(mode="after")
    def _some(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self


Text = Annotated[str, Field(max_length=512)]
Filters = dict[Text, Text | Annotated[list[Text], Field(min_length=1, max_length=100)] | Range]


class SlateRequest(Body):
    """What searching and recommending have in common."""

    session_id: Id | None = None
    """Continues this session; without it, half an hour of silence ends one."""
    context: dict[Text, Text] = Field(default={}, max_length=16)
    """What is known of the request beside its user: the fields that the release was trained on."""
    filters: Filters = Field(default={}, max_length=16)
    """Field to the value or values allowed, or to a range `{min, max}`."""
    exclude_item_ids: list[Id] = Field(default=[], max_length=1_000)
    page_size: int = Field(20, ge=1, le=MAX_PAGE)
    page_token: Annotated[str, Field(max_length=65_536)] | None = None
    """From `next_page_token`, with the other fields as they were; page_size may change."""
    personalize: bool = True
    """False: memory is neither read nor used."""
    explain: bool = True
    """Gives `reasons`."""


class RecommendRequest(SlateRequest):
    """`POST /v1/recommend`."""

    user_id: Id


class SearchRequest(SlateRequest):
    """`POST /v1/search`."""

    query: str = Field(min_length=1, max_length=MAX_QUERY)
    user_id: Id | None = None


class Event(Body):
    """One event; `models.events` has the last word on what is a good one."""

    event_id: str
    """Unique for the user. Sent again, it is counted once."""
    action: str
    user_id: str
    ts: Time | None = None
    """When it happened; left out: now, by the service's clock."""
    session_id: str | None = None
    request_id: str | None = None
    """Of the reply that showed the item."""
    item_id: str | None = None
    position: int | None = Field(None, ge=0, lt=1 << 31)
    query: Annotated[str, Field(max_length=MAX_QUERY)] | None = None
    value: Finite | None = None
    surface: Text | None = None
    propensity: Finite | None = None
    slot: str | None = None
    """What a fact is about, with the action `state`: a preference or a constraint."""
    fact: str | None = None
    """The slot's value as JSON text; left out: the slot is withdrawn."""
    fact_source: Literal["inferred", "observed", "explicit"] | None = None
    """Who says it; left out: the user did."""
    valid_until: Time | None = None


class EventsRequest(Body):
    """`POST /v1/events`."""

    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)


class FactRequest(Body):
    """`PUT /v1/users/{user_id}/facts/{slot}`."""

    value: Any
    """Any JSON: a text, a number, a list, ..."""
    source: Literal["inferred", "observed", "explicit"] = "explicit"
    """Who says it. What the user says holds against what was found out about them."""
    valid_until: Time | None = None
    """From then on it holds no more."""


class Reply(BaseModel):
    """A reply body."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reason(Reply):
    """Why an item is shown."""

    kind: str
    """history, category, or a source: vector, trending, fresh, lexical."""
    text: str


class Item(Reply):
    """One place of a slate."""

    item_id: str
    rank: int
    """From 1, counted on over the pages."""
    score: float | None
    """In recommendations the expected worth; None where ranking was skipped."""
    reasons: list[Reason]


class Degraded(Reply):
    """A stage that was skipped."""

    stage: str
    reason: str


class Slate(Reply):
    """Reply of search and recommend."""

    request_id: str
    """Name it in the events that follow."""
    items: list[Item]
    next_page_token: str | None
    experiments: list[str]
    release: str
    degraded: list[Degraded]
    timings_ms: dict[str, float]


class Rejected(Reply):
    """An event that was not taken."""

    index: int
    event_id: str | None
    problem: str


class EventsReply(Reply):
    """What became of the events: the four add up to those sent."""

    accepted: int
    duplicates: int
    late: int
    """Stored, but too old to be proven new: it joins memory at the next rebuild."""
    rejected: list[Rejected]


class Remembered(Reply):
    """One interaction."""

    ts: str
    action: str
    item_id: str | None
    """None where the event has no item, or one that this release does not know."""
    text: str | None
    session: int
    """0 in the session going on, 1 in the one before it, ..."""


class ItemMemory(Reply):
    """What is remembered of one item."""

    item_id: str
    text: str
    reasons: list[str]


class Interest(Reply):
    """A share of a person's interest, of late and over the years."""

    values: list[str]
    """Values of the first category field that share this bucket."""
    fast: float
    slow: float


class Drift(Reply):
    """How far the interests of late are from the long-term ones: 0 the same, 1 others."""

    cosine: float
    jensen_shannon: float


class FactSaid(Reply):
    """Something said about a slot."""

    slot: str
    value: Any
    withdrawn: bool
    """The slot was left without a value."""
    source: str
    said_at: str
    known_at: str
    valid_until: str | None


class FactReply(Reply):
    """`GET /v1/users/{user_id}/facts/{slot}`."""

    slot: str
    holds: FactSaid | None
    history: list[FactSaid]
    """All that is kept of the slot, newest first."""


class Rhythm(Reply):
    """How a person comes and goes."""

    burstiness: float
    """-1 like a clock, 0 at random, 1 all at once."""
    overdue: float
    """Time since the last session began, in the person's own median gaps."""
    dormancy: float
    """0 just here, near 1 gone."""
    tempering: float
    """What long memory counts after the silence: 1 in full."""


class MemoryReply(Reply):
    """`GET /v1/users/{user_id}/memory`: what is remembered, as of now."""

    user_id: str
    as_of: str
    known: bool
    num_events: int
    num_sessions: int
    recency_days: float | None
    tenure_days: float
    gap_days: float
    drift: Drift
    rhythm: Rhythm
    counts: dict[str, dict[str, float]]
    """Action to half-life to decayed number of events."""
    rates: dict[str, float]
    """Shares that the release is configured to read, drawn to a prior where little is known."""
    intensity: float
    """Events of interest a day to expect now."""
    facts: list[FactSaid]
    """What holds now, by slot."""
    interests: list[Interest]
    items: list[ItemMemory]
    interactions: list[Remembered]
    """Newest first."""


class Contribution(Reply):
    """An event behind a feature, or a group of events that memory no longer tells apart."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    item_id: str | None
    action: str
    interests: list[str]
    from_: str = Field(alias="from")
    until: str
    count: int
    share: float


class ExplanationReply(Reply):
    """`GET /v1/users/{user_id}/memory/{feature}`: what made a number, event by event."""

    feature: str
    as_of: str
    value: float | None
    """As memory shows it; None: infinite."""
    total: float | None
    """What events brought of it."""
    contributions: list[Contribution]
    """The largest first, at most 200."""
    rest: float
    """Share of those that are not listed; with theirs, all shares sum to one."""


class ErasureReceipt(Reply):
    """`DELETE /v1/users/{user_id}/memory`, all or a part: what was removed.

    It does not name the user.
    """

    num_events: int
    num_marks: int
    num_bytes: int
    erased_at: str
    """The user's events up to here stay out, also when they are sent again."""


class ReleaseInfo(Reply):
    """A release that is loaded."""

    release: str
    name: str
    created_at: str
    watermark: str
    metrics: dict[str, float]


class Releases(Reply):
    """`GET /v1/releases`."""

    releases: list[ReleaseInfo]


class Health(Reply):
    """`GET /health/...`."""

    status: str


class ProblemDocument(BaseModel):
    """RFC 9457; see `serve.problems` for the types."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, Any]] | None = None
