"""Read memory: a user id to what is known of the user at this moment, as people and models see it.

B = 1 here; L newest interactions, F numbers of the user level, X context fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import lmdb
import numpy as np
import torch
from torch import Tensor

from models.catalogue import Catalogue
from models.events import INTERACTION, Interactions, key64
from models.features import FeatureConfig, UserSide, context_codes, user_side
from models.memory import EMPTY, MemorySpec, MemoryView, State, fold, user_features, view
from models.memory.negative import attraction
from models.stores import MemoryStore


class MemoryUnavailableError(RuntimeError):
    """The store cannot be read, or what it holds of this user is damaged."""


@dataclass(frozen=True)
class Remembered:
    """One user's memory at one moment."""

    state: State
    view: MemoryView
    user: UserSide
    """B = 1."""

    @property
    def known(self) -> bool:
        """Whether anything is remembered."""
        return bool(self.state)


class ReadMemory:
    """The stage. An unknown user has an empty memory."""

    def __init__(
        self,
        store: MemoryStore,
        *,
        catalogue: Catalogue,
        features: FeatureConfig,
        memory: MemorySpec,
    ) -> None:
        self._store, self._catalogue = store, catalogue
        self._features, self._memory = features, memory

    def state(self, user_id: str) -> State:
        """What the store holds.

        Raises:
            MemoryUnavailableError: when it cannot be read.
        """
        try:
            return self._store.get_many([user_id])[0]
        # ValueError: the codec refuses damaged bytes.
        except (lmdb.Error, OSError, RuntimeError, ValueError) as error:
            raise MemoryUnavailableError(f"memory cannot be read: {error}") from error

    def fold(self, history: Interactions) -> State:
        """The state of a whole history: what the store holds, at the moment of that history."""
        return fold(history, self._memory.state)

    def attraction(self, memory: Remembered, places: Tensor) -> Tensor | None:
        """`(1, C)` what refusals and weariness leave of items at places `(1, C)`; None: all."""
        spec, state = self._memory.state, memory.state
        if spec.shown and spec.refused and not len(state.shown) and not len(state.refused):
            return None
        left = attraction(
            state.shown,
            state.refused,
            state.ring,
            self._catalogue.keys[places[0].numpy()],
            now_ms=memory.view.now_ms,
            gap_ms=self._memory.view.session_gap,
            spec=self._memory.view.negative,
        )
        return torch.from_numpy(left.astype(np.float32))[None]

    def __call__(
        self,
        state: State = EMPTY,
        *,
        now_ms: int,
        session_id: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Remembered:
        """A state as it is read at `now_ms`, in the session and the context of a request."""
        session = key64(session_id) if session_id else 0
        seen = view(state, now_ms=now_ms, spec=self._memory, session=session)
        size = self._memory.state.ring
        ring = np.zeros((1, size), INTERACTION)
        ring[0, size - len(state.ring) :] = state.ring
        user = user_side(
            ring,
            item=self._catalogue.places(ring["item"]),
            now_ms=np.asarray([now_ms], np.int64),
            session=np.asarray([session], np.uint64),
            long=user_features(seen)[None],
            context=context_codes(
                [[(context or {}).get(field)] for field in self._features.context],
                self._features,
                num=1,
            ),
            view=self._memory.view,
            features=self._features,
        )
        return Remembered(state, seen, user)
