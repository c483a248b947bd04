"""The bytes of a state: one per state, and nothing else is read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION, Interactions
from models.memory import EMPTY, Fact, Source, State, StateSpec, decode, encode, fold
from tests.models.memory.strategies import ORIGIN_MS, SPEC, permuted, records, some

GOLDEN = Path(__file__).parent / "golden"
BEFORE = SPEC.model_copy(update={"shown": 0, "refused": 0})
"""`SPEC` as version 1 knew it, when states had one ring and no facts."""
FACTS = (
    Fact("budget", "50", Source.INFERRED, ORIGIN_MS - 5, ORIGIN_MS, None, 7),
    Fact("remote", None, Source.EXPLICIT, ORIGIN_MS, ORIGIN_MS, ORIGIN_MS + 9, 2**64 - 1),
)


def golden_state(spec: StateSpec = SPEC, facts: tuple[Fact, ...] = FACTS) -> State:
    """Twelve events over a hundred days, so that the rings and every level of tiles are at work.

    The file was written by, and after a *wanted* change of format (with a new version number and
    a new file; old ones stay, for they must still load) is written again by:
    `(GOLDEN / "state_v2.bin").write_bytes(encode(golden_state(), SPEC))`.
    """
    place = np.arange(12)
    events = np.zeros(12, INTERACTION)
    events["ts"] = ORIGIN_MS - (11 - place) ** 4 * 600_000  # gaps of a month down to minutes
    events["event"] = np.uint64(2**64 - 1) - place.astype(np.uint64)
    events["item"] = place % 5 + 1
    events["session"] = place // 4
    events["value"] = place / 4
    events["interest"] = place % SPEC.num_interests
    names = ["view", "purchase", "dismiss", "impression"][: 4 if spec.shown else 3]
    events["action"] = np.resize([ACTIONS[name].code for name in names], 12)
    return fold(events, spec, facts)


def with_checksum(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


@some
@given(records())
def test_round_trip(events: Interactions) -> None:
    state = fold(events, SPEC)
    again = decode(encode(state, SPEC), SPEC)
    assert again == state
    assert encode(again, SPEC) == encode(state, SPEC)
    assert not again.ring.flags.writeable
    assert not again.tiles.flags.writeable


@some
@given(permuted(), records())
def test_equal_states_and_only_they_have_equal_bytes(
    both: tuple[Interactions, Interactions], other: Interactions
) -> None:
    a, b, c = (fold(events, SPEC) for events in (*both, other))
    assert encode(a, SPEC) == encode(b, SPEC)
    assert (encode(a, SPEC) == encode(c, SPEC)) == (a == c)


def test_the_empty_state_has_bytes_too() -> None:
    assert decode(encode(EMPTY, SPEC), SPEC) == EMPTY


def test_a_view_of_a_store_is_read_and_not_kept() -> None:
    page = bytearray(encode(golden_state(), SPEC))
    state = decode(memoryview(page), SPEC)
    page[:] = bytes(len(page))
    assert state == golden_state()


def test_every_flipped_byte_is_refused() -> None:
    blob = encode(golden_state(), SPEC)
    for place in range(len(blob)):
        for flip in (0x01, 0x80, 0xFF):
            broken = bytearray(blob)
            broken[place] ^= flip
            with pytest.raises(ValueError, match="memory state"):
                decode(bytes(broken), SPEC)


def test_every_truncation_and_any_tail_is_refused() -> None:
    blob = encode(golden_state(), SPEC)
    for length in range(len(blob)):
        with pytest.raises(ValueError, match="memory state"):
            decode(blob[:length], SPEC)
    with pytest.raises(ValueError, match="damaged"):
        decode(blob + b"\0", SPEC)


def test_an_unknown_version_is_refused() -> None:
    body = bytearray(encode(golden_state(), SPEC)[:-4])
    body[3] = 3
    with pytest.raises(ValueError, match="version 3; this release reads version 1 to 2"):
        decode(with_checksum(bytes(body)), SPEC)


def test_a_state_of_another_spec_is_refused() -> None:
    other = SPEC.model_copy(update={"ring": SPEC.ring + 1})
    blob = encode(golden_state(), SPEC)
    with pytest.raises(ValueError, match=f"spec {SPEC.digest()}, not {other.digest()}"):
        decode(blob, other)


def test_the_golden_file_still_loads() -> None:
    blob = (GOLDEN / "state_v2.bin").read_bytes()
    assert decode(blob, SPEC) == golden_state()
    assert encode(golden_state(), SPEC) == blob


def test_a_state_of_version_1_still_loads_and_goes_on_as_version_2() -> None:
    blob = (GOLDEN / "state_v1.bin").read_bytes()
    old = golden_state(BEFORE, facts=())
    assert decode(blob, BEFORE) == old
    assert decode(encode(decode(blob, BEFORE), BEFORE), BEFORE) == old
    with pytest.raises(ValueError, match="Rebuild the memory"):
        decode(blob, SPEC)


def test_a_whole_state_of_the_default_spec_is_small() -> None:
    """Two hundred events over half a year stay under 8 KiB."""
    rng = np.random.default_rng(0)
    events = np.zeros(200, INTERACTION)
    events["ts"] = ORIGIN_MS + np.sort(rng.integers(0, 180 * DAY_MS, 200))
    for name in ("event", "item", "session"):
        events[name] = rng.integers(1, 2**64, 200, np.uint64)
    events["value"], events["interest"] = rng.random(200), rng.integers(0, 64, 200)
    events["action"] = rng.choice([ACTIONS[n].code for n in ("view", "save", "hire")], 200)
    assert len(encode(fold(events, StateSpec()), StateSpec())) < 8192
