"""Candidates of all sources: filters hold, the future stays out, strangers are served."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import PopularityTable
from models.retrieval.index import best
from models.retrieval.retrieve import Retriever
from models.retrieval.sources import SOURCES, CandidateConfig, fresh, remembered
from tests.models.small import CATALOGUE, MODEL, day_ms, nobody, random_side
from tests.worlds import World

RETRIEVER = World().recommender().retriever
NUM = len(CATALOGUE)
QUERIES = ["red mug", "lamp", "", "unheard", "black basket of the old town"]
masks = st.lists(st.booleans(), min_size=NUM - 1, max_size=NUM - 1).map(
    lambda mask: torch.tensor([False, *mask])
)


def bit(name):
    return 1 << SOURCES.index(name)


def from_source(found, name):
    """The places that a source brought, row by row."""
    chosen = (found.provenance & bit(name)) > 0
    return [set(row[mask].tolist()) for row, mask in zip(found.places, chosen, strict=True)]


def check(found):
    """Each candidate once, padding at the end, and somebody brought each."""
    for places, provenance in zip(found.places.tolist(), found.provenance.tolist(), strict=True):
        real = [place for place in places if place]
        assert places == real + [0] * (len(places) - len(real))
        assert len(set(real)) == len(real)
        assert [p > 0 for p in provenance] == [place > 0 for place in places]


@settings(max_examples=20, deadline=None)
@given(allowed=masks)
def test_no_filter_is_ever_violated(allowed):
    user = random_side(4)
    for found in (
        RETRIEVER.recommend(user, allowed=allowed),
        RETRIEVER.search(QUERIES, nobody([60] * 5), allowed=allowed),
    ):
        check(found)
        assert allowed[found.places[found.places > 0]].all()


def test_a_filter_still_brings_every_item_that_passes_it():
    allowed = torch.from_numpy(CATALOGUE.allowed(equal={"kind": ["mug"]}))
    found = RETRIEVER.recommend(random_side(3), allowed=allowed)
    for places in found.places:
        assert set(places[places > 0].tolist()) == set(torch.nonzero(allowed)[:, 0].tolist())


def test_a_stranger_gets_candidates_from_all_but_memory():
    found = RETRIEVER.recommend(nobody([60, 80]))
    check(found)
    assert from_source(found, "memory") == [set(), set()]
    for name in ("vector", "trending", "fresh"):
        assert all(from_source(found, name)), name


def test_provenance_says_what_each_source_found():
    user, config = random_side(6, seed=3), RETRIEVER.config
    found = RETRIEVER.recommend(user)
    known = RETRIEVER.known(user.now_days)
    brought = {
        "memory": remembered(user, config.memory),
        "vector": best(RETRIEVER.affinity(user), config.vector, known=known)[0],
        "fresh": fresh(known, config.fresh),
    }
    assert remembered(user, config.memory).any()
    for name, places in brought.items():
        expected = [set(row.tolist()) - {0} for row in places]
        whole = [set(row.tolist()) for row in found.places]
        got = from_source(found, name)
        assert got == [e & w for e, w in zip(expected, whole, strict=True)], name
        assert got[1], name


@pytest.mark.parametrize("day", [0.5, 3, 10, 29, 29.01])
def test_items_of_the_future_never_come(day):
    num_known = int(np.ceil(day))
    user = nobody([day, 60])
    assert RETRIEVER.known(user.now_days).tolist() == [num_known + 1, NUM]
    queries = ["lamp mug clock candle basket"] * 2
    for found in (RETRIEVER.recommend(user), RETRIEVER.search(queries, user)):
        check(found)
        assert 0 < int(found.places[0].max()) <= num_known


def test_trending_is_what_was_popular_before_each_moment():
    moments = nobody([45, 70, 100])
    found = RETRIEVER.recommend(moments)
    counts = World().popularity
    for row, day in enumerate((45, 70, 100)):
        read = counts.read(day_ms(day), MODEL.features.popularity_half_lives)[:, 0]
        best = set(np.argsort(-read)[: RETRIEVER.config.trending].tolist())
        best = {place for place in best if read[place] > 0}
        assert best
        got = from_source(found, "trending")[row]
        assert np.allclose(sorted(read[list(got)]), sorted(read[list(best)]))


def test_trending_among_few_is_the_best_of_those_few():
    counts = World().popularity.read(day_ms(80), MODEL.features.popularity_half_lives)[:, 0]
    unloved = np.argsort(counts)[: NUM // 2]
    allowed = torch.zeros(NUM, dtype=torch.bool)
    allowed[unloved] = True
    expected = [p for p in unloved[::-1] if p and counts[p] > 0][: RETRIEVER.config.trending]
    found = RETRIEVER.recommend(nobody([80]), allowed=allowed & (torch.arange(NUM) > 0))
    got = from_source(found, "trending")[0]
    assert len(got) == len(expected) == RETRIEVER.config.trending
    assert np.allclose(sorted(counts[list(got)]), sorted(counts[expected]))


def test_a_search_finds_the_words_asked_for():
    found = RETRIEVER.search(["white clock"], nobody([60]))
    clock = CATALOGUE.place_of("white-clock")
    assert clock in from_source(found, "lexical")[0]
    assert found.relevance.amax() == 1
    assert (found.relevance[found.places > 0] > 0).all()
    assert (found.relevance[found.places == 0] == 0).all()
    # First for words and the only one with both: nothing else can have more words in common.
    lexical = RETRIEVER.lexical.search("white clock", 5)
    assert lexical[0] == clock


def test_a_source_may_be_switched_off_and_the_total_bounds_them_all():
    config = CandidateConfig(memory=0, vector=3, trending=0, fresh=0, lexical=0, total=2)
    few = made(config)
    found = few.recommend(random_side(3))
    assert found.places.shape == (3, 2)
    assert set(found.provenance.flatten().tolist()) == {bit("vector")}
    assert few.search(["red"], nobody([60])).places.shape == (1, 2)


def made(config, vectors=None):
    return Retriever(
        RETRIEVER.net,
        catalogue=CATALOGUE,
        popularity=PopularityTable(World().popularity, MODEL.features.popularity_half_lives),
        features=MODEL.features,
        config=config,
        vectors=vectors,
    )


def test_given_vectors_are_used_until_they_are_encoded_anew():
    vectors = torch.zeros(NUM, 8)
    stored = made(CandidateConfig(), vectors)
    assert torch.equal(stored.index.vectors, vectors)
    stored.refresh()
    assert torch.equal(stored.index.vectors, RETRIEVER.index.vectors)
    assert stored.index.vectors[1:].abs().sum(1).all()


def test_affinity_is_the_towers_score_of_the_training_loss():
    """Inner product, popularity at the moment's worth, and the pull of one's own past."""
    net, user = RETRIEVER.net, random_side(5)
    places = torch.arange(NUM)
    asked = net.user_query(user)
    popularity = RETRIEVER.popularity.read(user.now_days, places.expand(5, -1))
    expected = (
        asked.vector[:, 0] @ net.item_vectors(places).T
        + (popularity @ asked.trend[..., None])[..., 0]
        + asked.returning(NUM)
    )
    torch.testing.assert_close(RETRIEVER.affinity(user), expected.detach())
    assert RETRIEVER.affinity(user)[:, 1:].std() > 0.01


def test_candidates_carry_their_own_affinity():
    user = random_side(4)
    whole = RETRIEVER.affinity(user)
    chosen = torch.tensor([[3, 9], [0, 1], [30, 2], [7, 7]])
    for found in (
        RETRIEVER.recommend(user),
        RETRIEVER.search(QUERIES[:4], user),
        RETRIEVER.given(user, chosen),
    ):
        assert torch.equal(found.affinity, whole.gather(1, found.places))
    given = RETRIEVER.given(user, chosen)
    assert torch.equal(given.places, chosen)
    assert not given.provenance.any()


def test_taken_candidates_keep_all_that_is_said_of_them():
    found = RETRIEVER.search(QUERIES[:4], random_side(4))
    columns = torch.tensor([[2, 0], [1, 1], [3, 5], [0, 4]])
    taken = found.take(columns)
    for name, value in vars(found).items():
        for row, numbers in enumerate(columns.tolist()):
            assert getattr(taken, name)[row].tolist() == [value[row, n].item() for n in numbers]


def test_memory_moves_what_is_near():
    user = random_side(4)
    hidden = user.keep(torch.zeros(4, 3, dtype=torch.bool))
    assert not torch.allclose(RETRIEVER.affinity(user)[1], RETRIEVER.affinity(hidden)[1])


def dropping():
    """The same retriever, which leaves out what was seen."""
    return Retriever(
        RETRIEVER.net,
        catalogue=CATALOGUE,
        popularity=RETRIEVER.popularity,
        features=MODEL.features,
        config=CandidateConfig(vector=30, trending=30, fresh=30, total=60, drop_seen=True),
    )


def test_what_the_ring_holds_is_left_out_by_every_source():
    user = random_side(6)
    found = dropping().recommend(user)
    check(found)
    for places, own in zip(found.places.tolist(), user.item.tolist(), strict=True):
        assert not set(places) & (set(own) - {0})
        assert set(places) | set(own) | {0} == set(range(NUM))


def test_what_is_said_to_be_seen_is_left_out_instead():
    user, seen = random_side(3), torch.tensor([[4, 9], [1, 0], [0, 0]])
    found = dropping().recommend(user, seen=seen)
    for places, own in zip(found.places.tolist(), seen.tolist(), strict=True):
        assert set(places) - {0} == set(range(1, NUM)) - set(own)
    assert RETRIEVER.unseen(seen) is None


def test_a_search_finds_what_was_seen():
    user = random_side(5)
    found, plain = dropping().search(QUERIES, user), RETRIEVER.search(QUERIES, user)
    assert set(plain.places[0].tolist()) <= set(found.places[0].tolist())
