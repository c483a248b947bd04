import json

import pytest

from serve import schemas
from serve.schemas import MAX_BODY_BYTES
from tests.serve.world import USER, WORLD, Client, event, ids, problem, texts


def test_replies_fit_their_schemas(shared: Client):
    schemas.Slate.model_validate(shared.recommend(context={"country": "France"}))
    schemas.Slate.model_validate(shared.search("red clock", user_id=USER))
    schemas.MemoryReply.model_validate(shared.get(f"/v1/users/{USER}/memory"))
    schemas.MemoryReply.model_validate(shared.get("/v1/users/nobody/memory"))
    schemas.Releases.model_validate(shared.get("/v1/releases"))


def test_a_slate_is_ranked_scored_and_explained(shared: Client):
    reply = shared.recommend(page_size=100)
    assert [item["rank"] for item in reply["items"]] == list(range(1, len(ids(reply)) + 1))
    scores = [item["score"] for item in reply["items"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(ids(reply))) == len(ids(reply)) > 10
    assert reply["degraded"] == []
    assert set(reply["timings_ms"]) == {"memory", "retrieve", "rank", "arrange", "total"}
    assert all(item["reasons"] == [] for item in shared.recommend(explain=False)["items"])


def test_the_same_request_gets_the_same_slate(shared: Client):
    assert ids(shared.recommend()) == ids(shared.recommend())


def test_an_event_is_in_the_next_request(client: Client):
    before = client.recommend("ann", page_size=100)
    assert not any("you bought" in t for i in ids(before) for t in texts(before, i))
    client.events(event(1), event(2), event(3, item_id="blue-mug"))
    after = client.recommend("ann", page_size=100)
    assert "you bought this 2 times, last just now" in texts(after, "red-clock")
    assert "you bought this just now" in texts(after, "blue-mug")
    known = client.get("/v1/users/ann/memory")
    assert known["num_events"] == 3
    assert known["interactions"][0]["action"] == "purchase"
    assert {item["item_id"] for item in known["items"]} == {"red-clock", "blue-mug"}


def test_an_unknown_user_gets_popular_and_new_items(shared: Client):
    reply = shared.recommend("nobody", page_size=100)
    kinds = {r["kind"] for item in reply["items"] for r in item["reasons"]}
    assert kinds == {"trending", "fresh"}
    assert shared.get("/v1/users/nobody/memory")["known"] is False


def test_without_personalising_a_user_is_nobody(shared: Client):
    mine, plain = shared.recommend(), shared.recommend(personalize=False)
    nobody = shared.recommend("nobody")
    assert ids(plain) == ids(nobody)
    scores = [[i["score"] for i in reply["items"]] for reply in (plain, nobody, mine)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)  # time goes on between requests
    assert scores[0] != pytest.approx(scores[2], abs=1e-5)
    assert "memory" not in plain["timings_ms"]


def test_search_finds_words_and_remembers(shared: Client):
    reply = shared.search("Red CLOCK!", user_id=USER, page_size=100)
    assert "has your words: red, clock" in texts(reply, "red-clock")
    assert {f"{c}-clock" for c in ("red", "blue", "white")} <= set(ids(reply))
    alone = shared.search("red clock", page_size=100)
    assert set(ids(alone)) == set(ids(reply))
    assert all(r["kind"] in ("vector", "lexical") for i in alone["items"] for r in i["reasons"])


def test_words_that_no_item_has_are_no_error(shared: Client):
    for query in ("zzz", "+++", "AND (", '"', "\u0000", "🦊"):
        assert shared.search(query)["degraded"] == []


def test_filters_and_exclusions_hold(shared: Client):
    clocks = shared.recommend(filters={"kind": "clock"}, page_size=100)
    assert ids(clocks)
    assert all(item.endswith("clock") for item in ids(clocks))
    two = {"kind": ["clock", "mug"], "price": {"min": 5, "max": 20}}
    rows = WORLD.catalogue.table.to_pylist()
    allowed = {
        r["item_id"] for r in rows if r["kind"] in ("clock", "mug") and 5 <= r["price"] <= 20
    }
    assert set(ids(shared.search("clock mug", filters=two, page_size=100))) == allowed
    first = ids(shared.recommend())[0]
    assert first not in ids(shared.recommend(exclude_item_ids=[first, "unknown"], page_size=100))
    assert ids(shared.recommend(filters={"kind": "castle"})) == []


def test_a_field_that_is_no_filter_is_named(shared: Client):
    for filters in ({"colour": "red"}, {"price": "7"}, {"kind": {"min": 1}}):
        body = {"user_id": USER, "filters": filters}
        document = problem(shared.send("POST", "/v1/recommend", json=body), 400, "invalid-filter")
        assert next(iter(filters)) in document["detail"]


def test_a_context_field_that_the_release_does_not_know_is_named(shared: Client):
    body = {"user_id": USER, "context": {"weather": "rain"}}
    document = problem(shared.send("POST", "/v1/recommend", json=body), 400, "invalid-context")
    assert "'weather'" in document["detail"]
    assert "country" in document["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/user_id"),
        ({"user_id": ""}, "#/user_id"),
        ({"user_id": "ä" * 129}, "#/user_id"),
        ({"user_id": "a\0b"}, "#/user_id"),
        ({"user_id": 7}, "#/user_id"),
        ({"user_id": "a", "page_size": 0}, "#/page_size"),
        ({"user_id": "a", "page_size": 101}, "#/page_size"),
        ({"user_id": "a", "page_size": "5"}, "#/page_size"),
        ({"user_id": "a", "usr": 1}, "#/usr"),
        ({"user_id": "a", "exclude_item_ids": [""]}, "#/exclude_item_ids/0"),
    ],
)
def test_a_wrong_field_is_pointed_at(shared: Client, body, pointer):
    document = problem(shared.send("POST", "/v1/recommend", json=body), 400, "invalid-request")
    assert document["errors"][0]["pointer"] == pointer
    assert pointer in document["detail"]


def test_a_range_is_checked(shared: Client):
    for wrong in ({}, {"min": 2, "max": 1}, {"low": 1}, []):
        body = {"query": "a", "filters": {"price": wrong}}
        problem(shared.send("POST", "/v1/search", json=body), 400, "invalid-request")


def test_a_query_has_a_length(shared: Client):
    problem(shared.send("POST", "/v1/search", json={"query": ""}), 400, "invalid-request")
    problem(shared.send("POST", "/v1/search", json={"query": "a" * 513}), 400, "invalid-request")
    assert shared.search("a" * 512)


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/search", "/v1/events"])
def test_what_is_no_json_is_malformed(shared: Client, path):
    for body in (b"", b"{", b"\xff\xfe", b'{"user_id": NaN,}', b'"\\ud800"', b"[" * 100_000):
        problem(shared.send("POST", path, content=body), 400, "malformed-json")
    for body in (b"null", b"[]", b"7", b'"text"'):
        problem(shared.send("POST", path, content=body), 400, "invalid-request")


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/search", "/v1/events"])
def test_a_body_has_a_size(shared: Client, path):
    over = json.dumps({"user_id": "a" * MAX_BODY_BYTES}).encode()
    problem(shared.send("POST", path, content=over), 413, "body-too-large")


def test_other_paths_and_methods_are_problems(shared: Client):
    problem(shared.send("GET", "/v1/nothing"), 404, "not-found")
    problem(shared.send("POST", "/v1/recommend/"), 404, "not-found")
    reply = shared.send("GET", "/v1/recommend")
    problem(reply, 405, "method-not-allowed")
    assert reply.headers["allow"] == "POST"


def test_a_fault_of_ours_tells_nothing_of_itself(client: Client):
    client.service.opened.store.close()
    document = problem(client.send("DELETE", f"/v1/users/{USER}/memory"), 500, "internal")
    assert "lmdb" not in document["detail"].lower()


def test_erasing_gives_a_receipt_and_forgets(client: Client):
    client.events(event(1), event(2, ts="2011-08-19T00:11:00.001Z"))
    receipt = client.delete("/v1/users/ann/memory")
    schemas.ErasureReceipt.model_validate(receipt)
    assert (receipt["num_events"], receipt["num_marks"]) == (2, 2)
    assert "ann" not in json.dumps(receipt)
    assert client.get("/v1/users/ann/memory")["known"] is False
    assert ids(client.recommend("ann")) == ids(client.recommend("nobody"))
    again = client.events(event(2, ts="2011-08-19T00:11:00.001Z"))
    assert again["accepted"] == 0
    assert "erased" in again["rejected"][0]["problem"]
    assert client.delete("/v1/users/ann/memory")["num_events"] == 0


def test_a_user_of_the_snapshot_can_be_erased(client: Client):
    assert client.get(f"/v1/users/{USER}/memory")["num_events"] == 12
    client.delete(f"/v1/users/{USER}/memory")
    assert client.get(f"/v1/users/{USER}/memory")["known"] is False


def test_ids_in_paths_may_hold_anything(client: Client):
    client.events(event(1, user_id="a/b ü%"))
    assert client.get("/v1/users/a%2Fb%20%C3%BC%25/memory")["num_events"] == 1
    client.delete("/v1/users/a%2Fb%20%C3%BC%25/memory")
    assert client.get("/v1/users/a%2Fb%20%C3%BC%25/memory")["known"] is False
    for wrong in ("", "a%00b", "x" * 257):
        reply = client.send("DELETE", f"/v1/users/{wrong}/memory")
        problem(reply, 400, "invalid-request")


def test_health_and_release(shared: Client):
    assert shared.get("/health/live") == {"status": "live"}
    assert shared.get("/health/ready") == {"status": "ready"}
    (loaded,) = shared.get("/v1/releases")["releases"]
    assert loaded["name"] == "tiny"
    assert loaded["release"] == shared.recommend()["release"]
    assert loaded["metrics"] == {"test/recall@10": 0.5}


def test_what_is_not_warm_is_not_ready(client: Client):
    client.service.ready = False
    reply = client.send("GET", "/health/ready")
    problem(reply, 503, "not-ready")
    assert reply.headers["retry-after"] == "2"
    assert client.get("/health/live") == {"status": "live"}


def test_openapi_describes_every_endpoint(shared: Client):
    document = shared.get("/openapi.json")
    assert set(document["paths"]) == {
        "/v1/recommend",
        "/v1/search",
        "/v1/events",
        "/v1/users/{user_id}/memory",
        "/v1/users/{user_id}/memory/{feature}",
        "/v1/users/{user_id}/export",
        "/v1/users/{user_id}/facts/{slot}",
        "/v1/releases",
        "/health/live",
        "/health/ready",
    }
    text = json.dumps(document)
    named = set(document["components"]["schemas"])
    assert {"SearchRequest", "RecommendRequest", "EventsRequest", "Slate", "Range"} <= named
    referred = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert referred <= named
