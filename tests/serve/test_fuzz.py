"""Whatever is posted, the fault is never ours."""

import json
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.problems import MEDIA_TYPE
from serve.schemas import rfc3339
from tests.serve.world import USER, WORLD, Client

texts = st.text(max_size=12) | st.sampled_from(
    ["user-03", "red-clock", "purchase", "kind", "price", "clock", "country", "a\0b", "2011-08-19"]
)
numbers = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, 2**64, -(2**63), 1e308])
leaves = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from([USER, "ann", "red-clock", "a/b", "ü", "x" * 256])
times = st.integers(-600, 300).map(lambda s: rfc3339(WORLD.watermark_ms + 1000 * s))


def some(needed: dict[str, st.SearchStrategy], **fields: st.SearchStrategy) -> st.SearchStrategy:
    """Mostly a right object; now and then any field may be missing, or be anything."""
    right = st.fixed_dictionaries(needed, optional=fields)
    messy = {name: field | values for name, field in {**needed, **fields}.items()}
    return right | right | st.fixed_dictionaries({}, optional=messy)


prices = st.lists(st.floats(0, 40), min_size=2, max_size=2).map(sorted)
filters = some(
    {},
    kind=st.sampled_from(["clock", "mug"]) | st.lists(texts, min_size=1, max_size=3),
    price=prices.map(lambda bounds: {"min": bounds[0], "max": bounds[1]}),
)
slate = {
    "session_id": names,
    "context": st.fixed_dictionaries({}, optional={"country": texts}),
    "filters": filters,
    "exclude_item_ids": st.lists(names, max_size=3),
    "page_size": st.integers(1, 100),
    "personalize": st.booleans(),
    "explain": st.booleans(),
}
events = some(
    {
        "event_id": names,
        "user_id": names,
        "item_id": names,
        "action": st.sampled_from(["purchase", "view"]),
    },
    ts=times,
    session_id=names,
    request_id=names,
    position=st.integers(0, 99),
    query=texts,
    value=st.floats(-1e9, 1e9),
    propensity=st.floats(0.01, 1),
    surface=texts,
)
members = events | events | events | values
bodies = {
    "/v1/recommend": some({"user_id": names}, **slate),
    "/v1/search": some({"query": texts.filter(bool)}, user_id=names, **slate),
    "/v1/events": some({"events": st.lists(members, min_size=1, max_size=5)}),
}
quiet = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def check(client: Client, path: str, body: bytes) -> None:
    reply = client.send("POST", path, content=body)
    assert reply.status_code < 500, (path, body, reply.text)
    if reply.status_code != 200:
        assert reply.headers["content-type"] == MEDIA_TYPE
        assert reply.json()["detail"]


def plain(value: object) -> bytes:
    """JSON that Python can write: whole numbers of any size, nan as NaN."""
    return json.dumps(value).encode()


@quiet
@given(st.sampled_from(sorted(bodies)), st.data())
def test_likely_bodies(client: Client, path: str, data: st.DataObject):
    check(client, path, plain(data.draw(bodies[path])))


@quiet
@given(st.sampled_from(sorted(bodies)), values)
def test_any_json(client: Client, path: str, value: object):
    check(client, path, plain(value))


@quiet
@given(st.sampled_from(sorted(bodies)), st.binary(max_size=40))
def test_any_bytes(client: Client, path: str, body: bytes):
    check(client, path, body)


@quiet
@given(st.text(max_size=300))
def test_any_user_in_a_path(client: Client, user_id: str):
    path = f"/v1/users/{quote(user_id.encode('utf-8', 'replace'), safe='')}/memory"
    for method in ("GET", "DELETE"):
        reply = client.send(method, path)
        assert reply.status_code < 500, (path, reply.text)
        assert reply.json()
