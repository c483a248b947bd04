"""What a spec refuses, and which half of it stored bytes depend on."""

from __future__ import annotations

import pytest

from models.config import DAY_MS
from models.memory import MemorySpec, StateSpec, TileLevel, ViewSpec


def levels(*pairs: tuple[str, int]) -> dict[str, object]:
    return {"levels": [{"hop": hop, "keep": keep} for hop, keep in pairs]}


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (levels(), "between 1 and 8"),
        (levels(*[("1h", 1)] * 16), "between 1 and 8"),
        (levels(("1h", 4), ("90m", 9)), "no multiple"),
        (levels(("1h", 48), ("1d", 2)), "do not reach back as far"),
        (levels(("10ms", 4)), "greater than or equal to 1000"),
        (levels(("1h", 0)), "greater than 0"),
        ({"ring": 0}, "greater than 0"),
        ({"ring": 5_000}, "less than or equal to 4096"),
        ({"rings": 5}, "rings"),
        ({"num_interests": 1}, "greater than or equal to 2"),
    ],
)
def test_a_state_that_could_not_be_read_is_refused(values: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        StateSpec.model_validate(values)


def test_levels_that_reach_just_far_enough() -> None:
    spec = StateSpec.model_validate(levels(("1h", 48), ("1d", 3)))
    assert spec.levels[1] == TileLevel(hop=DAY_MS, keep=3)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"actions": ["view", "dance"]}, "dance"),
        ({"actions": []}, "actions"),
        ({"half_lives": []}, "at least one"),
        ({"half_lives": ["1d", 0]}, "above zero"),
        ({"fast": "a while"}, "no duration"),
        ({"drift_prior": 0}, "greater than 0"),
        ({"rates": [{"name": "ctr", "hits": ["tap"], "tries": ["view"]}]}, "hits.*tap"),
        ({"rates": [{"name": "ctr", "hits": ["view"], "tries": ["view", "view"]}]}, "distinct"),
    ],
)
def test_a_reading_that_makes_no_sense_is_refused(values: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ViewSpec.model_validate(values)


def test_only_the_state_half_names_stored_bytes() -> None:
    plain = MemorySpec()
    slower = MemorySpec(view=ViewSpec(fast=DAY_MS))
    assert plain.state.digest() == slower.state.digest()
    assert plain.digest() != slower.digest()
    assert plain.state.digest() != StateSpec(ring=1).digest()
    assert plain.state.digest() != StateSpec(shown=0).digest()
