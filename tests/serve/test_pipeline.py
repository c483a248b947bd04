from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.schemas import RecommendRequest, SearchRequest
from tests.serve.world import Client


def test_many_threads_get_what_one_gets(shared: Client):
    pipeline = shared.service.pipeline
    asked = [RecommendRequest(user_id=f"user-{n % 20:02}") for n in range(40)]
    alone = [pipeline.recommend(request)["items"] for request in asked]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda r: pipeline.recommend(r)["items"], asked))
    for one, other in zip(alone, together, strict=True):
        assert [i["item_id"] for i in one] == [i["item_id"] for i in other]
        # Time goes on between the two.
        assert [i["score"] for i in one] == pytest.approx([i["score"] for i in other], abs=1e-4)


def test_the_session_named_is_the_session_read(shared: Client):
    pipeline, now = shared.service.pipeline, shared.service.opened.clock()
    state = pipeline.read.state("user-03")
    here = pipeline.read(state, now_ms=now, session_id="s3-2").view
    elsewhere = pipeline.read(state, now_ms=now, session_id="another").view
    assert here.session_rank[-1] == 0
    assert elsewhere.session_rank[-1] == 1


def test_every_reply_has_an_id_of_its_own(shared: Client):
    pipeline = shared.service.pipeline
    replies = [pipeline.search(SearchRequest(query="mug"))["request_id"] for _ in range(5)]
    assert len(set(replies)) == 5
