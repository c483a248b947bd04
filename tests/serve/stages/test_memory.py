"""The stage reads online what training read from histories."""

import numpy as np
import pytest
import torch

from models.config import DAY_MS
from models.events import INTERACTION, key64
from models.examples import Examples, Requests
from models.features import context_codes
from models.memory import fold, user_features, view
from models.stores import LmdbStore, StoreConfig
from serve.stages.memory import MemoryUnavailableError, ReadMemory
from tests.worlds import MODEL, World

WORLD = World()


@pytest.fixture
def read(tmp_path):
    store = LmdbStore(StoreConfig(path=tmp_path, sync=False), spec=MODEL.memory.state)
    yield ReadMemory(store, catalogue=WORLD.catalogue, features=MODEL.features, memory=MODEL.memory)
    store.close()


def trained_on(as_of_ms: int, session: str, country: str) -> Examples:
    """A request of every user at one moment, as a batch job sees it."""
    histories, num = WORLD.histories, len(WORLD.histories.users)
    states = [fold(histories.seen(u, as_of_ms), MODEL.memory.state) for u in range(num)]
    key = key64(session)
    seen = [view(s, now_ms=as_of_ms, spec=MODEL.memory, session=key) for s in states]
    requests = Requests(
        user=np.arange(num),
        as_of_ms=np.full(num, as_of_ms),
        session=np.full(num, key, np.uint64),
        long=np.stack([user_features(v) for v in seen]),
        context=context_codes([[country] * num], MODEL.features, num=num),
        outcomes=np.zeros(0, np.int64),
        labels=np.zeros(0, np.uint8),
        offsets=np.zeros(num + 1, np.int64),
    )
    return Examples(
        requests,
        histories=histories,
        catalogue=WORLD.catalogue,
        features=MODEL.features,
        memory=MODEL.memory,
    )


@pytest.mark.parametrize("days_before_the_end", [-3, 0, 12, 45])
def test_online_is_what_was_trained_on(read, days_before_the_end):
    as_of = WORLD.watermark_ms - days_before_the_end * DAY_MS
    batch = trained_on(as_of, "s3-1", "France").user_side(np.arange(20))
    for user in range(20):
        state = fold(WORLD.histories.seen(user, as_of), MODEL.memory.state)
        online = read(state, now_ms=as_of, session_id="s3-1", context={"country": "France"}).user
        for name, tensor in vars(online).items():
            assert torch.equal(tensor[0], getattr(batch, name)[user]), (name, user)


def test_nobody_has_an_empty_memory(read):
    nobody = read(read.state("nobody"), now_ms=WORLD.watermark_ms)
    assert not nobody.known
    assert nobody.user.item.shape == (1, MODEL.features.history)
    assert not nobody.user.recent.any()


def test_more_than_is_read_is_cut_at_the_old_end(read):
    ring = np.zeros(12, INTERACTION)
    ring["ts"], ring["event"], ring["action"] = np.arange(12) + 1, np.arange(12) + 1, 3
    ring["item"] = WORLD.catalogue.keys[1:13]
    seen = read(fold(ring, MODEL.memory.state), now_ms=100)
    assert seen.user.item[0].tolist() == list(range(5, 13))


def test_a_store_that_cannot_be_read_says_so(tmp_path):
    store = LmdbStore(StoreConfig(path=tmp_path, sync=False), spec=MODEL.memory.state)
    read = ReadMemory(
        store, catalogue=WORLD.catalogue, features=MODEL.features, memory=MODEL.memory
    )
    store.close()
    with pytest.raises(MemoryUnavailableError, match="cannot be read"):
        read.state("ann")
