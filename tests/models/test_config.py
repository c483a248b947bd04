"""Lengths of time as text, strictness, and the digest that names a config."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from models.config import DAY_MS, Config, Duration, format_duration, parse_duration


class Inner(Config):
    wait: Duration = DAY_MS


class Outer(Config):
    inner: Inner = Inner()
    columns: dict[str, str] = Field(default_factory=dict)
    rate: float = 0.5


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("250ms", 250),
        ("1.5s", 1_500),
        ("2 m", 120_000),
        ("36h", 36 * 3_600_000),
        (" 7d ", 7 * DAY_MS),
        (7, 7),
    ],
)
def test_durations(text: object, ms: int) -> None:
    assert parse_duration(text) == ms
    assert Inner.model_validate({"wait": text}).wait == ms


@pytest.mark.parametrize("text", ["", "7", "d", "-1h", "1w", "1h30m", "1e3s"])
def test_other_texts_are_refused_with_the_units(text: str) -> None:
    with pytest.raises(ValueError, match="write a number and one of ms, s, m, h, d"):
        parse_duration(text)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**12))
def test_a_duration_comes_back_from_its_text(ms: int) -> None:
    assert parse_duration(format_duration(ms)) == ms


def test_a_config_comes_back_from_its_text() -> None:
    config = Outer(inner=Inner(wait=90_000), columns={"ts": "when"})
    text = config.model_dump_json()
    assert '"wait":"90s"' in text
    assert Outer.model_validate_json(text) == config


def test_an_unknown_key_is_named_and_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="wiat"):
        Inner.model_validate({"wiat": 5})
    with pytest.raises(ValidationError, match="frozen"):
        Inner().wait = 5  # type: ignore[misc]


def test_the_digest_changes_exactly_when_a_value_changes() -> None:
    plain = Outer()
    assert plain.digest() == Outer(inner=Inner.model_validate({"wait": "24h"})).digest()
    others = [
        Outer(inner=Inner(wait=1)),
        Outer(rate=0.25),
        Outer(columns={"a": "b"}),
        plain.model_copy(update={"rate": 0.125}),
    ]
    digests = {config.digest() for config in (plain, *others)}
    assert len(digests) == 5
    assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in digests)
    a, b = Outer(columns={"a": "1", "b": "2"}), Outer(columns={"b": "2", "a": "1"})
    assert a.digest() == b.digest()
