"""One config, two stores."""

from __future__ import annotations

import subprocess
import sys

import pytest

from models.config import Config
from models.stores import LmdbStore, StoreConfig
from models.stores.opening import MemoryConfig, open_memory
from models.stores.redis.config import RedisConfig
from tests.models.memory.strategies import SPEC
from tests.models.stores.redis_server import needs_redis, shared_server
from tests.models.stores.world import numbered


class Document(Config):
    """A config with a store in it."""

    store: MemoryConfig


def test_a_path_or_a_url_names_the_store(tmp_path):
    config = Document.model_validate({"store": {"path": tmp_path, "sync": False}})
    assert config.store == StoreConfig(path=tmp_path, sync=False)
    other = Document.model_validate({"store": {"url": "redis://h:1", "prefix": "p"}})
    assert other.store == RedisConfig(url="redis://h:1", prefix="p")
    for each in (config, other):
        assert Document.model_validate(each.model_dump(mode="json")) == each
        assert Document(store=each.store) == each


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ({}, "store.path.path"),
        ({"path": "a", "url": "redis://h"}, "store.url.path"),
        ({"url": "redis://h", "map_size_bytes": 1 << 30}, "store.url.map_size_bytes"),
    ],
)
def test_what_belongs_to_the_other_store_is_an_error(store, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        Document.model_validate({"store": store})


def test_a_name_is_a_store_of_its_own_in_a_folder(tmp_path):
    one = open_memory(StoreConfig(path=tmp_path, sync=False), spec=SPEC, name="one")
    assert isinstance(one, LmdbStore)
    one.close()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@needs_redis
def test_a_name_is_a_store_of_its_own_on_a_server(tmp_path):
    config = RedisConfig(url=shared_server().url, prefix=str(tmp_path))
    one, two = (open_memory(config, spec=SPEC, name=name, clock=lambda: 0) for name in "ab")
    one.apply_many(numbered(range(9)))
    assert (one.num_users, two.num_users) == (3, 0)


def test_without_the_client_library_the_way_to_get_it_is_told():
    code = """
import sys
sys.modules["redis"] = None
from models.memory import StateSpec
from models.stores.opening import RedisConfig, open_memory
open_memory(RedisConfig(url="redis://h"), spec=StateSpec())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ValueError: store redis://h ebb needs the Redis client: pip install" in done.stderr
