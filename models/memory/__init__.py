"""Personalised memory: what is kept of a person's events, and how it is read.

`fold`, `lift`, `merge`, `update` make states; `view` reads one at a given time; `encode` and
`decode` turn a state into bytes and back. Start with the README beside this file.
"""

from models.memory.batch import states
from models.memory.codec import decode, encode
from models.memory.facts import EMPTY_FACTS, Fact, Source
from models.memory.histories import Histories
from models.memory.popularity import Popularity
from models.memory.spec import MemorySpec, RateSpec, StateSpec, TileLevel, ViewSpec
from models.memory.state import EMPTY, State, fold, lift, merge, update
from models.memory.view import MemoryView, user_feature_names, user_features, view, views

__all__ = [
    "EMPTY",
    "EMPTY_FACTS",
    "Fact",
    "Histories",
    "MemorySpec",
    "MemoryView",
    "Popularity",
    "RateSpec",
    "Source",
    "State",
    "StateSpec",
    "TileLevel",
    "ViewSpec",
    "decode",
    "encode",
    "fold",
    "lift",
    "merge",
    "states",
    "update",
    "user_feature_names",
    "user_features",
    "view",
    "views",
]
