"""Personalised memory: what is kept of a person's events, and how it is read.

`fold`, `lift`, `merge`, `update` make states; `view` reads one at a given time; `encode` and
`decode` turn a state into bytes and back. Start with the README beside this file.
"""

from models.memory.codec import decode, encode
from models.memory.histories import Histories
from models.memory.popularity import Popularity
from models.memory.spec import MemorySpec, StateSpec, TileLevel, ViewSpec
from models.memory.state import EMPTY, State, fold, lift, merge, update
from models.memory.view import MemoryView, user_feature_names, user_features, view

__all__ = [
    "EMPTY",
    "Histories",
    "MemorySpec",
    "MemoryView",
    "Popularity",
    "State",
    "StateSpec",
    "TileLevel",
    "ViewSpec",
    "decode",
    "encode",
    "fold",
    "lift",
    "merge",
    "update",
    "user_feature_names",
    "user_features",
    "view",
]
