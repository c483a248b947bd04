"""Events as records: keys, fields and the vocabulary."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from models.events import (
    ACTION_NAMES,
    ACTIONS,
    INTERACTION,
    POLARITY,
    encode,
    key64,
    keys64,
    validate,
)

NOW_MS = 1_700_000_000_000


def good(*rows: dict[str, object]) -> pa.Table:
    """Rows of changes to one good event, as they leave `validate`."""
    plain = {
        "event_id": None,
        "ts": NOW_MS,
        "user_id": "u1",
        "item_id": "i1",
        "action": "view",
        "session_id": None,
        "value": None,
    }
    full = [{**plain, "event_id": f"e{place}", **row} for place, row in enumerate(rows)]
    columns = {name: [row[name] for row in full] for name in plain}
    found = validate(pa.table(columns), now_ms=NOW_MS)
    assert not len(found.rejected)
    return found.good


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", 3244421341483603138),
        ("u", 1000067187423537442),
        ("user 7", 906668635067103022),
        ("é", 17839895020865391795),
        ("u\0e", 17654064887138474188),
    ],
)
def test_keys_are_what_they_always_were(text: str, key: int) -> None:
    """Every stored state holds such keys: another hash would orphan them all."""
    assert key64(text) == key


def test_keys_of_columns_in_pieces_with_nulls() -> None:
    column = pa.chunked_array([["a", None], ["b", "a"], []], pa.string())
    assert keys64(column).tolist() == [key64("a"), 0, key64("b"), key64("a")]
    assert keys64(pa.chunked_array([], pa.string())).tolist() == []


def test_encode_keeps_every_field() -> None:
    rows = good({"session_id": "s", "value": 2.5}, {"action": "search", "item_id": None, "ts": 5})
    records = encode(rows, lambda items: (items != 0).astype(np.uint16) * np.uint16(3))
    assert records.dtype == INTERACTION
    assert records.tolist() == [
        (NOW_MS, key64("u1\0e0"), key64("i1"), key64("s"), 2.5, 3, ACTIONS["view"].code),
        (5, key64("u1\0e1"), 0, 0, 0.0, 0, ACTIONS["search"].code),
    ]
    assert encode(rows)["interest"].tolist() == [0, 0]
    assert len(encode(rows.slice(0, 0))) == 0


def test_one_event_id_under_two_users_is_two_events() -> None:
    rows = good({"event_id": "e"}, {"event_id": "e", "user_id": "u2"}, {"event_id": "e"})
    first, other, again = encode(rows)["event"].tolist()
    assert first == again != other


def test_user_and_event_cannot_be_moved_into_one_another() -> None:
    rows = good({"user_id": "ab", "event_id": "c"}, {"user_id": "a", "event_id": "bc"})
    assert len(set(encode(rows)["event"].tolist())) == 2


def test_action_codes_are_never_reused_or_changed() -> None:
    """They are in every stored state. New ones may join; these stay."""
    always = {
        "impression": (1, 0), "search": (2, 0), "view": (3, 1), "click": (4, 1), "save": (5, 1),
        "cart": (6, 1), "apply": (7, 1), "invite": (8, 1), "accept": (9, 1), "hire": (10, 1),
        "purchase": (11, 1), "like": (12, 1), "dismiss": (32, -1), "decline": (33, -1),
        "cancel": (34, -1), "dislike": (35, -1),
    }  # fmt: skip
    known = {name: (action.code, action.polarity) for name, action in ACTIONS.items()}
    assert always.items() <= known.items()
    assert len(ACTION_NAMES) == len(ACTIONS)
    assert all(POLARITY[action.code] == action.polarity for action in ACTIONS.values())
