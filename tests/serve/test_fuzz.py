"""Whatever is posted, the fault is never ours."""

import json
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.problems import MEDIA_TYPE
from tests.serve.world import USER, Client

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
times = st.datetimes(timezones=st.just(None)).map(lambda t: t.isoformat() + "Z")


def some(**fields: st.SearchStrategy) -> st.SearchStrategy:
    """An object with some of these fields, each as said or anything."""
    return st.fixed_dictionaries({}, optional={k: v | values for k, v in fields.items()})


filters = st.dictionaries(
    texts, texts | st.lists(texts, max_size=3) | some(min=numbers, max=numbers)
)
slate = {
    "user_id": st.just(USER) | texts,
    "session_id": texts,
    "context": st.dictionaries(st.just("country"), texts, max_size=1),
    "filters": filters,
    "exclude_item_ids": st.lists(texts, max_size=3),
    "page_size": st.integers(1, 100),
    "personalize": st.booleans(),
}
events = some(
    event_id=texts,
    user_id=texts,
    action=st.sampled_from(["purchase", "search", "view"]),
    ts=times,
    item_id=texts,
    session_id=texts,
    position=st.integers(0),
    query=texts,
    value=numbers,
    propensity=st.floats(0, 1),
    surface=texts,
)
bodies = {
    "/v1/recommend": some(**slate),
    "/v1/search": some(query=texts, **slate),
    "/v1/events": some(events=st.lists(events | values, max_size=4)),
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
