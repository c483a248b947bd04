import pytest

from serve import schemas
from serve.schemas import MAX_EVENTS
from tests.serve.world import WORLD, Client, config_of, event, opened, problem


def test_each_event_is_judged_by_itself(client: Client):
    reply = client.events(
        event(1),
        event(2, action="marry"),
        "no object",
        event(3, ts="yesterday"),
        event(4, ts="2031-01-01T00:00:00Z"),
        event(5, colour="red"),
        event(6, item_id=None),
        event(7, user_id="x" * 257),
        event(8, propensity=0),
        event(9, position=-1),
        event(1),
        event(10),
        event(11, value=1e300),
        event(12, ts="2011-08-18T22:00:00.123456+02:00"),
    )
    schemas.EventsReply.model_validate(reply)
    assert (reply["accepted"], reply["duplicates"], reply["late"]) == (2, 1, 1)
    told = {row["index"]: (row["event_id"], row["problem"]) for row in reply["rejected"]}
    assert set(told) == {1, 2, 3, 4, 5, 6, 7, 8, 9, 12}
    assert told[1][1].startswith("unknown action: one of impression, ")
    assert told[2][0] is None
    assert "RFC 3339" in told[3][1]
    assert told[4] == ("n4", "ts in the future")
    assert told[5] == ("n5", "colour: unknown field")
    assert told[6] == ("n6", "no item_id")
    assert "256 bytes" in told[7][1]
    assert "propensity" in told[8][1]
    assert told[9][1].startswith("position: ")
    assert "finite" in told[12][1]


def test_sent_again_it_changes_nothing(client: Client):
    first = client.events(*(event(n, ts="2011-08-19T00:11:00.001Z") for n in range(20)))
    before = client.get("/v1/users/ann/memory")["num_events"]
    again = client.events(*(event(n, ts="2011-08-19T00:11:00.001Z") for n in range(25)))
    assert (first["accepted"], again["duplicates"], again["accepted"]) == (20, 20, 5)
    assert (before, client.get("/v1/users/ann/memory")["num_events"]) == (20, 25)


def test_an_event_without_a_time_is_of_now(client: Client):
    client.events(event(1))
    seen = client.get("/v1/users/ann/memory")
    assert seen["interactions"][0]["ts"][:10] == seen["as_of"][:10] == "2011-08-19"


def test_an_event_keeps_its_arrival(client: Client):
    client.events(event(1, ts="2011-08-19T00:11:00.001Z"), event(2, ts="2011-08-19T00:14:00Z"))
    rows = client.service.opened.store.history("ann").to_pylist()
    assert all(row["ts"] <= row["arrived_at"] for row in rows)
    assert rows[0]["arrived_at"] > rows[0]["ts"]


def test_an_event_before_the_snapshot_is_late_and_kept(client: Client):
    reply = client.events(event(1, ts="2011-08-01T00:00:00Z"))
    assert (reply["late"], reply["accepted"]) == (1, 0)
    assert client.get("/v1/users/ann/memory")["known"] is False
    assert len(client.service.opened.store.history("ann")) == 1


def test_an_item_that_the_release_does_not_know_is_remembered_all_the_same(client: Client):
    assert client.events(event(1, item_id="from-tomorrow"))["accepted"] == 1
    (seen,) = client.get("/v1/users/ann/memory")["interactions"]
    assert (seen["item_id"], seen["action"]) == (None, "purchase")
    assert client.recommend("ann")["items"]


@pytest.mark.parametrize(
    "ts",
    ["2011-08-19T00:11:00", "2011-02-30T00:00:00Z", "1313712660", "2011-08-19", "", 1313712660],
)
def test_a_time_is_rfc_3339_with_a_zone(client: Client, ts):
    (wrong,) = client.events(event(1, ts=ts))["rejected"]
    assert wrong["problem"].startswith("ts: ")


@pytest.mark.parametrize(
    "ts", ["0001-01-01T00:00:00+23:59", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59"]
)
def test_a_time_beyond_all_calendars_is_rejected(client: Client, ts):
    assert len(client.events(event(1, ts=ts))["rejected"]) == 1


def test_a_body_holds_a_bounded_list(client: Client):
    def post(body):
        return problem(client.send("POST", "/v1/events", json=body), 400, "invalid-request")

    post({"events": []})
    post({"events": {}})
    post({"events": [event(1)], "more": 1})
    assert "1001 events" in post({"events": [event(n) for n in range(MAX_EVENTS + 1)]})["detail"]
    many = [{"event_id": str(n), "user_id": "a", "action": "search"} for n in range(MAX_EVENTS)]
    most = client.events(*many)
    assert most["accepted"] == MAX_EVENTS


def test_a_full_store_says_so_and_goes_on_reading(release, tmp_path):
    store = {"path": tmp_path / "store", "sync": False, "map_size_bytes": 1 << 20}
    with opened(config_of(release, tmp_path, store=store)) as service:
        client = Client(service)
        for batch in range(200):
            rows = [event(f"{batch}-{n}", query="q" * 400) for n in range(100)]
            reply = client.send("POST", "/v1/events", json={"events": rows})
            if reply.status_code != 200:
                break
        problem(reply, 507, "store-full")
        assert reply.headers["retry-after"] == "60"
        assert client.recommend("ann")["degraded"] == []
        assert len(service.opened.store.history("ann")) == 100 * batch
        client.close()


def test_the_snapshot_is_in_memory(client: Client):
    newest = schemas.rfc3339(int(WORLD.of_user("user-03")["ts"].max()))
    assert client.get("/v1/users/user-03/memory")["interactions"][0]["ts"] == newest
