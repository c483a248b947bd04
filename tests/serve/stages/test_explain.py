import numpy as np
import pytest

from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION, POLARITY
from models.memory import EMPTY, State, fold
from models.retrieval.sources import SOURCES
from models.stores import LmdbStore, StoreConfig
from serve.stages.explain import DEEDS, Explain, Reasons, ago
from serve.stages.memory import ReadMemory
from tests.worlds import MODEL, World

WORLD = World()
NOW = WORLD.watermark_ms
CATALOGUE = WORLD.catalogue
CLOCK = CATALOGUE.place_of("red-clock")


@pytest.fixture
def reasons(tmp_path):
    store = LmdbStore(StoreConfig(path=tmp_path, sync=False), spec=MODEL.memory.state)
    read = ReadMemory(store, catalogue=CATALOGUE, features=MODEL.features, memory=MODEL.memory)

    def of(state: State, query: str | None = None) -> Reasons:
        return Explain(CATALOGUE, MODEL.memory.state)(read(state, now_ms=NOW), query)

    yield of
    store.close()


def ring(*deeds: tuple[str, str, float]) -> State:
    """Of (item, action, days ago)."""
    events = np.zeros(len(deeds), INTERACTION)
    for number, (item, action, days) in enumerate(deeds):
        row = events[number]
        row["ts"], row["event"] = NOW - int(days * DAY_MS), number + 1
        row["item"] = CATALOGUE.keys[CATALOGUE.place_of(item)]
        row["action"] = ACTIONS[action].code
    return fold(events, MODEL.memory.state)


def texts(found: list[dict[str, str]]) -> list[str]:
    return [reason["text"] for reason in found]


def bits(*sources: str) -> int:
    return sum(1 << SOURCES.index(source) for source in sources)


def test_every_action_with_an_opinion_has_words():
    assert set(DEEDS) == {name for name, action in ACTIONS.items() if POLARITY[action.code]}


def test_the_past_is_counted_event_by_event(reasons):
    state = ring(
        ("red-clock", "purchase", 40),
        ("red-clock", "purchase", 30),
        ("red-clock", "purchase", 12.9),
        ("red-clock", "cancel", 11),
        ("red-clock", "impression", 1),
        ("blue-clock", "view", 3),
    )
    found = reasons(state)(CLOCK, bits("memory"))
    assert found == [
        {"kind": "history", "text": "you cancelled this 11 days ago"},
        {"kind": "history", "text": "you bought this 3 times, last 12 days ago"},
        {"kind": "category", "text": "you chose 1 other item in clock"},
    ]


def test_a_full_ring_says_at_least(reasons):
    full = ring(*(("red-clock", "purchase", 20 - n) for n in range(MODEL.memory.state.ring)))
    assert texts(reasons(full)(CLOCK, 0)) == ["you bought this at least 16 times, last 5 days ago"]


def test_sources_are_told(reasons):
    nobody = texts(reasons(EMPTY)(CLOCK, bits("memory", "vector", "trending", "fresh")))
    assert nobody == ["popular of late", "new here"]
    known = texts(reasons(ring(("blue-mug", "view", 1)))(CLOCK, bits("vector", "fresh")))
    assert known == ["close to what you did", "new here"]
    searched = texts(reasons(EMPTY, "A red, RED hat")(CLOCK, bits("vector", "lexical")))
    assert searched == ["close in meaning to your words", "has your words: red"]


def test_an_item_unknown_to_the_release_explains_nothing(reasons):
    events = ring(("red-clock", "purchase", 1)).ring.copy()
    events["item"] = 12345
    assert texts(reasons(fold(events, MODEL.memory.state))(CLOCK, 0)) == []


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "just now"),
        (59_999, "just now"),
        (60_000, "1 minute ago"),
        (7_199_999, "1 hour ago"),
        (DAY_MS, "1 day ago"),
        (400 * DAY_MS, "400 days ago"),
        (-5, "just now"),
    ],
)
def test_ago(ms, text):
    assert ago(ms) == text
