import base64

import pytest

from tests.serve.world import USER, Client, config_of, event, ids, opened, problem
from tests.worlds import World


def pages(client: Client, path: str, body: dict, size: int) -> list[list[str]]:
    found, token = [], None
    while True:
        asked = {**body, "page_size": size, "page_token": token}
        reply = client.send("POST", path, json=asked).json()
        found.append(ids(reply))
        ranks = [item["rank"] for item in reply["items"]]
        assert ranks == list(range(sum(map(len, found[:-1])) + 1, sum(map(len, found)) + 1))
        token = reply["next_page_token"]
        if token is None:
            return found


@pytest.mark.parametrize("size", [1, 4, 25, 100])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recommend", {"user_id": USER}),
        ("/v1/search", {"query": "blue mug", "user_id": USER, "filters": {"price": {"min": 3}}}),
    ],
)
def test_pages_are_the_whole_order_cut(shared: Client, path, body, size):
    whole = ids(shared.send("POST", path, json={**body, "page_size": 100}).json())
    found = pages(shared, path, body, size)
    assert [item for page in found for item in page] == whole
    assert all(len(page) == size for page in found[:-1])


def test_later_pages_keep_their_scores_and_reasons(shared: Client):
    whole = shared.recommend(page_size=100)["items"][3:8]
    first = shared.recommend(page_size=3)
    second = shared.recommend(page_size=5, page_token=first["next_page_token"])
    scores, expected = ([i.pop("score") for i in items] for items in (second["items"], whole))
    assert second["items"] == whole
    assert scores == pytest.approx(expected, abs=1e-4)  # time goes on between requests
    assert "rank" not in second["timings_ms"]


def test_what_happens_between_pages_moves_no_item(client: Client):
    whole = ids(client.recommend(page_size=100))
    first = client.recommend(page_size=6)
    client.events(*(event(n, user_id=USER, item_id=item) for n, item in enumerate(whole[10:])))
    rest = client.recommend(page_size=100, page_token=first["next_page_token"])
    assert ids(first) + ids(rest) == whole


def refused(client: Client, token: object, path: str = "/v1/recommend", **body) -> None:
    asked = {**(body or {"user_id": USER}), "page_token": token}
    problem(client.send("POST", path, json=asked), 400, "invalid-page-token")


def test_an_altered_token_is_refused(shared: Client):
    token = shared.recommend(page_size=3)["next_page_token"]
    for place in range(0, len(token), 7):
        other = "A" if token[place] != "A" else "B"
        refused(shared, token[:place] + other + token[place + 1 :])
    for altered in (token[:-1], token + "A", token + "=", token + " ", "", "ä", "!", "AAAA"):
        refused(shared, altered)
    packed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    refused(shared, base64.b64encode(packed[:-1]).decode())


def test_a_token_belongs_to_its_request(shared: Client):
    token = shared.recommend(page_size=3)["next_page_token"]
    refused(shared, token, user_id="user-04")
    refused(shared, token, user_id=USER, filters={"kind": "mug"})
    refused(shared, token, user_id=USER, exclude_item_ids=["red-mug"])
    refused(shared, token, user_id=USER, personalize=False)
    refused(shared, token, "/v1/search", query="mug", user_id=USER)
    assert shared.recommend(page_token=token, page_size=50, explain=False)["items"]


def test_a_token_belongs_to_its_release(shared: Client, tmp_path):
    token = shared.recommend(page_size=3)["next_page_token"]
    other = World(seed=2).release(tmp_path / "release")
    root = shared.service.config.store.path  # and so the same secret
    with opened(config_of(other, root)) as service:
        client = Client(service)
        assert service.opened.secret == shared.service.opened.secret
        refused(client, token)
        client.close()


def test_a_token_belongs_to_its_service(shared: Client, release, tmp_path):
    token = shared.recommend(page_size=3)["next_page_token"]
    with opened(config_of(release, tmp_path / "store")) as service:
        client = Client(service)
        refused(client, token)
        client.close()


def test_the_last_page_has_no_token(shared: Client):
    assert shared.recommend(page_size=100)["next_page_token"] is None
    assert shared.recommend(filters={"kind": "castle"})["next_page_token"] is None
