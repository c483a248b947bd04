"""Facts over HTTP, forgetting a part, and what was refused."""

from __future__ import annotations

import json

import pytest

from models.events import MAX_FACT_BYTES
from serve import schemas
from tests.serve.world import USER, Client, event, fine, ids, problem

FACT = "/v1/users/ann/facts/budget"


def say(client: Client, value: object, path: str = FACT, **more: object) -> dict:
    return fine(client.send("PUT", path, json={"value": value, **more}))


def test_a_fact_is_said_read_and_withdrawn(client: Client):
    assert client.get(FACT) == {"slot": "budget", "holds": None, "history": []}
    first = say(client, {"max": 50, "currency": "EUR"})
    schemas.FactReply.model_validate(first)
    assert first["holds"]["value"] == {"max": 50, "currency": "EUR"}
    assert first["holds"]["source"] == "explicit"
    say(client, 60)
    assert client.get(FACT)["holds"]["value"] == 60
    gone = client.delete(FACT)
    assert gone["holds"] is None
    assert [f["value"] for f in gone["history"]] == [None, 60, {"max": 50, "currency": "EUR"}]
    assert [f["withdrawn"] for f in gone["history"]] == [True, False, False]


def test_what_the_user_says_beats_what_was_inferred(client: Client):
    say(client, "remote", "/v1/users/ann/facts/place")
    say(client, "office", "/v1/users/ann/facts/place", source="inferred")
    (fact,) = client.get("/v1/users/ann/memory")["facts"]
    assert (fact["slot"], fact["value"], fact["source"]) == ("place", "remote", "explicit")


def test_a_fact_has_an_end(client: Client):
    now = client.service.opened.clock()
    said = say(client, 1, valid_until=schemas.rfc3339(now + 3_600_000))
    assert said["holds"]["value"] == 1
    over = {"value": 1, "valid_until": schemas.rfc3339(now - 1_000)}
    document = problem(client.send("PUT", FACT, json=over), 400, "invalid-request")
    assert "valid_until" in document["detail"]


@pytest.mark.parametrize(
    "body",
    [{}, {"value": 1, "slot": "x"}, {"value": 1, "source": "me"}, {"value": "a" * MAX_FACT_BYTES}],
)
def test_a_wrong_fact_is_refused(client: Client, body):
    problem(client.send("PUT", FACT, json=body), 400, "invalid-request")
    assert client.get(FACT)["history"] == []


def test_facts_can_be_posted_as_events(client: Client):
    fact = {"event_id": "f1", "user_id": "ann", "action": "state", "slot": "budget", "fact": "7"}
    assert client.events(fact, fact)["accepted"] == 1
    assert client.get(FACT)["holds"]["value"] == 7
    wrong = client.events({**fact, "event_id": "f2", "fact": "{"}, event(1, slot="budget"))
    assert [r["index"] for r in wrong["rejected"]] == [0, 1]
    assert client.get("/v1/users/ann/memory")["num_events"] == 0  # no interaction


def test_one_item_is_forgotten(client: Client):
    client.events(event(1), event(2, item_id="blue-mug"), event(3))
    path = "/v1/users/ann/memory?item_id=red-clock"
    assert client.delete(path)["num_events"] == 2
    memory = client.get("/v1/users/ann/memory")
    assert [i["item_id"] for i in memory["interactions"]] == ["blue-mug"]
    again = client.events(event(1, ts=schemas.rfc3339(client.service.opened.clock() - 60_000)))
    assert "erased" in again["rejected"][0]["problem"]


def test_what_lies_before_a_time_is_forgotten(client: Client):
    clock = client.service.opened.clock
    client.events(event(1))
    between = clock() + 2
    while clock() <= between:
        pass
    client.events(event(2))
    before = schemas.rfc3339(between)
    assert client.delete(f"/v1/users/ann/memory?before={before}")["num_events"] == 1
    assert client.get("/v1/users/ann/memory")["num_events"] == 1
    ahead = schemas.rfc3339(between + 86_400_000)
    for wrong in (f"before={ahead}", "before=yesterday", "item_id=", f"item_id=a&before={before}"):
        reply = client.send("DELETE", f"/v1/users/ann/memory?{wrong}")
        problem(reply, 400, "invalid-request")
    assert client.get("/v1/users/ann/memory")["num_events"] == 1


def test_an_item_of_the_snapshot_is_forgotten_as_if_it_had_never_been(client: Client):
    before = client.get(f"/v1/users/{USER}/memory")
    item = before["interactions"][0]["item_id"]
    client.delete(f"/v1/users/{USER}/memory?item_id={item}")
    after = client.get(f"/v1/users/{USER}/memory")
    assert item not in json.dumps(after["interactions"])
    kept = [i["item_id"] for i in before["interactions"] if i["item_id"] != item]
    assert [i["item_id"] for i in after["interactions"]] == kept
    assert after["num_events"] == len(kept)


def test_the_export_holds_all_of_it_and_nothing_once_erased(client: Client):
    client.events(event(1))
    say(client, "night shifts", "/v1/users/ann/facts/hours")
    told = json.dumps(client.get("/v1/users/ann/export"))
    assert "red-clock" in told
    assert "night shifts" in told
    client.delete("/v1/users/ann/memory")
    told = json.dumps(client.get("/v1/users/ann/export"))
    assert "red-clock" not in told
    assert "night shifts" not in told


def test_what_was_dismissed_is_not_recommended_but_can_be_found(client: Client):
    first = ids(client.recommend("ann", page_size=100))[0]
    client.events(event(1, item_id=first, action="dismiss"))
    assert first not in ids(client.recommend("ann", page_size=100))
    words = first.replace("-", " ")
    assert first in ids(client.search(words, user_id="ann", page_size=100))
    client.events(event(2, item_id=first, action="save"))  # sought out again
    assert first in ids(client.recommend("ann", page_size=100))


def test_a_number_of_memory_is_explained_by_its_events(client: Client):
    client.events(event(1), event(2, item_id="blue-mug"))
    told = client.get("/v1/users/ann/memory/num_purchase_7d")
    schemas.ExplanationReply.model_validate(told)
    assert {c["item_id"] for c in told["contributions"]} == {"red-clock", "blue-mug"}
    assert sum(c["share"] for c in told["contributions"]) == pytest.approx(1.0)
    counts = client.get("/v1/users/ann/memory")["counts"]["purchase"]["7d"]
    assert told["value"] == pytest.approx(counts, rel=1e-3)
    whole = client.get(f"/v1/users/{USER}/memory/num_events")
    assert sum(c["count"] for c in whole["contributions"]) == whole["value"] == 12
    nobody = client.get("/v1/users/nobody/memory/recency")
    assert (nobody["value"], nobody["contributions"]) == (None, [])


def test_a_number_that_cannot_be_explained_names_what_can(client: Client):
    for name, said in (("drift_cosine", "fast_0"), ("weather", "no feature")):
        reply = client.send("GET", f"/v1/users/ann/memory/{name}")
        assert said in problem(reply, 404, "not-found")["detail"]
