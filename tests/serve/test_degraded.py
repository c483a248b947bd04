import threading

import lmdb
import numpy as np

from serve.budgets import Budget
from tests.serve.world import USER, Client, config_of, fine, ids, opened, problem


def test_without_its_store_the_service_goes_on_without_memory(client: Client):
    nobody = client.recommend("nobody")
    client.service.opened.store.close()
    reply = client.recommend(USER)
    assert ids(reply) == ids(nobody)
    (degraded,) = reply["degraded"]
    assert degraded["stage"] == "memory"
    assert degraded["reason"].startswith("memory cannot be read: ")
    assert client.search("red clock")["degraded"] == []
    problem(client.send("GET", f"/v1/users/{USER}/memory"), 503, "store-unavailable")


def test_a_damaged_memory_is_one_user_without_memory(client: Client):
    store = client.service.opened.store
    path = next(p for p in client.service.config.store.path.iterdir() if p.is_dir())
    store.close()
    with lmdb.open(str(path), max_dbs=8, map_size=1 << 24) as env:
        users, states = env.open_db(b"users"), env.open_db(b"states")
        with env.begin(write=True) as txn:
            number = txn.get(USER.encode(), db=users)
            blob = bytearray(txn.get(number, db=states))
            blob[-1] ^= 1
            txn.put(number, bytes(blob), db=states)
    with opened(client.service.config) as service:
        again = Client(service)
        assert "damaged" in again.recommend(USER)["degraded"][0]["reason"]
        assert again.recommend("user-04")["degraded"] == []
        again.close()


def test_without_ranking_the_order_is_that_of_retrieval(release, tmp_path):
    with opened(config_of(release, tmp_path, budgets={"rank": 0})) as service:
        client = Client(service)
        for reply in (client.recommend(page_size=5), client.search("clock", page_size=5)):
            (degraded,) = reply["degraded"]
            assert degraded == {"stage": "rank", "reason": "switched off: its budget is 0"}
            assert [item["score"] for item in reply["items"]] == [None] * 5
        first = client.recommend(page_size=5)
        token = first["next_page_token"]
        second = client.recommend(page_size=100, page_token=token)
        assert {item["score"] for item in second["items"]} == {None}
        user = service.pipeline.read(
            service.pipeline.read.state(USER), now_ms=service.opened.clock()
        ).user
        places = service.pipeline.retrieve(user).places[0].numpy()
        names = np.asarray(service.release.recommender.catalogue.item_ids)[places - 1]
        assert ids(first) + ids(second) == names.tolist()
        client.close()


def test_ranking_over_its_budget_is_skipped(release, tmp_path):
    with opened(config_of(release, tmp_path)) as service:
        # Its one thread is taken: on a quick machine the work itself might be done in time.
        budget, free = Budget("rank", 20, 1), threading.Event()
        budget._threads.submit(free.wait)
        service.pipeline._rank_budget = budget
        client = Client(service)
        reply = fine(client.send("POST", "/v1/recommend", json={"user_id": USER}))
        free.set()
        assert reply["degraded"][0]["stage"] == "rank"
        assert "not done within" in reply["degraded"][0]["reason"]
        client.close()
