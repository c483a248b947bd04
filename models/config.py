"""The base of every component's config, and the one way to write a length of time."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DAY_MS = MS["d"]


class Config(BaseModel):
    """Frozen and strict: an unknown key is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """Sixteen hex digits that change exactly when a value changes."""
        try:
            return _kept_digest(self)
        except TypeError:  # a dict or list among the values: the cache has no key for it
            return _digest(self)


def digest_of(document: object) -> str:
    """Sixteen hex digits of a JSON document."""
    text = json.dumps(document, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _digest(config: Config) -> str:
    return digest_of(config.model_dump(mode="json"))


# Every state written or read names its spec's digest.
_kept_digest = functools.lru_cache(maxsize=256)(_digest)


def parse_duration(value: object) -> object:
    """`"36h"`, `"7d"`, `"250ms"` in milliseconds; whole numbers are milliseconds already.

    Raises:
        ValueError: for any other text, naming the units.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", value.strip())
    if match is None:
        raise ValueError(f"{value!r} is no duration: write a number and one of ms, s, m, h, d")
    return round(float(match[1]) * MS[match[2]])


def format_duration(value: int) -> str:
    """The shortest text that `parse_duration` reads back as `value` milliseconds."""
    unit = next(u for u in ("d", "h", "m", "s", "ms") if value % MS[u] == 0)
    return f"{value // MS[unit]}{unit}"


Duration = Annotated[
    int, BeforeValidator(parse_duration), PlainSerializer(format_duration, when_used="json")
]
"""Milliseconds; in YAML a text such as `7d`."""
