"""What is special to Redis: the server, partitions, many writers at once, full, killed."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import chain, count, pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from models.config import DAY_MS
from models.events import key64
from models.memory import EMPTY
from models.memory import encode as to_bytes
from models.stores import MemoryStore, Outcome, StoreFullError, write_snapshot
from models.stores.pending import pack, unpack
from models.stores.protocol import StoreUnavailableError
from models.stores.redis.config import RedisConfig
from models.stores.redis.layout import Keys, Stored
from models.stores.redis.reading import Reading
from models.stores.redis.server import Server
from models.stores.redis.writing import Change, Writing
from models.stores.tombstones import user_key
from tests.models.memory.strategies import SPEC
from tests.models.stores import redis_writer as writer
from tests.models.stores.redis_server import RedisServer, needs_redis, open_redis, shared_server
from tests.models.stores.world import (
    HORIZON,
    NOW,
    bytes_of,
    events,
    folded,
    ids,
    mixed,
    numbered,
    recorded,
    streamed,
)

pytestmark = needs_redis
USERS = ["u0", "u1", "u2"]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers with settings of their own; they stop with the test."""
    with ExitStack() as stack:

        def start(**settings: str) -> RedisServer:
            made = RedisServer(tmp_path / f"redis{len(list(tmp_path.iterdir()))}", **settings)
            stack.callback(made.stop)
            return made

        yield start


# -- the config --


def test_a_config_is_text_and_holds_no_password():
    config = RedisConfig.model_validate({"url": "redis://h:1/2", "dedup_horizon": "36h"})
    assert config.dedup_horizon == 1.5 * DAY_MS
    assert config.sync
    for url in ("redis://:secret@h", "redis://ann:secret@h", "unix:///s?password=secret"):
        with pytest.raises(ValueError, match="EBB_REDIS_PASSWORD"):
            RedisConfig(url=url)
    with pytest.raises(ValueError, match="url"):
        RedisConfig(url="http://h")
    with pytest.raises(ValueError, match="prefix"):
        RedisConfig(url="redis://h", prefix="a{b}")


def test_the_password_comes_from_the_environment(tmp_path, serve, monkeypatch):
    server = serve(requirepass="secret")
    with pytest.raises(ValueError, match="EBB_REDIS_PASSWORD"):
        open_redis(tmp_path, url=server.url)
    monkeypatch.setenv("EBB_REDIS_PASSWORD", "secret")
    open_redis(tmp_path, url=server.url).close()


# -- the server --


@pytest.mark.parametrize(
    ("setting", "value", "sync", "message"),
    [
        ("appendonly", "no", True, "appendonly no, so it keeps nothing"),
        ("appendfsync", "everysec", True, "appendfsync everysec, so it acknowledges"),
        ("no-appendfsync-on-rewrite", "yes", True, "does not wait for the disk during a rewrite"),
        ("appendonly", "no", False, None),
        ("maxmemory-policy", "allkeys-lru", False, "evicts what it likes"),
        ("maxmemory-policy", "volatile-lru", True, None),  # no key of a store has a time to live
    ],
)
def test_a_server_that_loses_events_is_refused(tmp_path, serve, setting, value, sync, message):
    server = serve(**{setting: value})
    if message is None:
        open_redis(tmp_path, url=server.url, sync=sync).close()
    else:
        with pytest.raises(ValueError, match=message):
            open_redis(tmp_path, url=server.url, sync=sync)


def test_a_server_that_hides_its_configuration_must_be_vouched_for(tmp_path, serve):
    server = serve(**{"rename-command": "CONFIG hidden"})
    with pytest.raises(ValueError, match="set `vouched: true`"):
        open_redis(tmp_path, url=server.url)
    store = open_redis(tmp_path, url=server.url, vouched=True)
    assert store.apply_many(numbered(range(3))) == [Outcome.ACCEPTED] * 3


def test_a_server_that_is_away_or_silent_is_told_plainly(tmp_path, serve):
    server = serve()
    store = open_redis(tmp_path, url=server.url, timeout="300ms")
    store.apply_many(numbered(range(9)))
    server.signal(signal.SIGSTOP)
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        store.get_many(["u0"])
    server.signal(signal.SIGCONT)
    assert store.get_many(["u0"]) == [folded(numbered(range(9)), "u0")]
    server.stop()
    for attempt in (store.get_many, store.history):
        with pytest.raises(StoreUnavailableError, match=f"{server.port}.*send it again"):
            attempt("u0")
    with pytest.raises(StoreUnavailableError):
        open_redis(tmp_path, url=server.url)


def test_a_server_that_was_started_anew_knows_what_it_acknowledged(tmp_path, serve):
    server = serve()
    store = open_redis(tmp_path, url=server.url)
    table = mixed(range(60))
    store.apply_many(table)
    server.kill()
    server.start()
    assert store.apply_many(table) == [Outcome.DUPLICATE] * 60  # and its scripts are loaded again
    assert store.get_many(USERS) == [folded(table, user) for user in USERS]
    assert streamed(store) == ids(table)


def test_another_spec_and_another_layout_are_refused(tmp_path):
    open_redis(tmp_path).close()
    other = SPEC.model_copy(update={"ring": 4})
    with pytest.raises(ValueError, match=rf"{SPEC.digest()}, not {other.digest()}.*jobs\.prepare"):
        open_redis(tmp_path, spec=other)
    shared_server().client().hset(Keys(str(tmp_path)).meta.decode(), "format", "9")
    with pytest.raises(ValueError, match="layout 9; this release reads layout 2"):
        open_redis(tmp_path)


# -- what lies there --


def content(server: RedisServer, prefix: Path) -> dict[bytes, dict[bytes, bytes]]:
    """All keys under a prefix and what they hold; what is a member only has no value."""
    client = server.client()
    read = {
        b"hash": client.hgetall,
        b"string": lambda key: {b"": client.get(key)},
        b"zset": lambda key: dict.fromkeys(client.zrange(key, 0, -1), b""),
    }
    keys = list(client.scan_iter(f"{prefix}:*", count=1000))
    return {key: read[client.type(key)](key) for key in keys}


def flat(found: dict[bytes, dict[bytes, bytes]]) -> bytes:
    """All of it in one piece."""
    return b"\n".join(text for key, held in found.items() for text in (key, *chain(*held.items())))


def test_no_key_names_a_user_and_all_of_a_user_has_one_tag(tmp_path):
    store = open_redis(tmp_path)
    store.apply_many(mixed(range(60)))
    store.delete("u2")
    stems = [key.removeprefix(str(tmp_path).encode()) for key in content(shared_server(), tmp_path)]
    assert not [stem for stem in stems if b"u0" in stem.split(b":")]
    for user in USERS:
        of_user = [stem for stem in stems if stem.endswith(user_key(user).hex().encode())]
        assert len(of_user) >= 1 if user == "u2" else 3
        assert len({stem.split(b":")[1] for stem in of_user}) == 1  # {p17}


def files(server: RedisServer) -> list[bytes]:
    """What the server keeps on the disk."""
    found = []
    for path in (server.folder / "appendonlydir").iterdir():
        with suppress(FileNotFoundError):  # a rewrite takes files away
            found.append(path.read_bytes())
    return found


def test_deletion_leaves_nothing_but_a_tombstone(tmp_path, serve):
    server, marker = serve(**{"aof-use-rdb-preamble": "no"}), "find-me-3f9a"
    rows = [
        {"event_id": f"{marker}-{n}", "user_id": marker, "query": marker, "item_id": marker}
        for n in range(20)
    ]
    store = open_redis(tmp_path, url=server.url)
    store.apply_many(numbered(range(30)))
    store.apply_many(events(rows))
    store.apply_many(events([{**rows[0], "event_id": f"{marker}-late", "ts": NOW - 2 * HORIZON}]))
    keys = [key64(f"{marker}\0{marker}-{n}").to_bytes(8, "big") for n in range(20)]
    traces = [marker.encode(), *keys]
    before = content(server, tmp_path)
    assert all(trace in flat(before) for trace in traces)
    receipt = store.delete(marker)
    assert (receipt.num_events, receipt.num_marks) == (21, 20)
    store.apply_many(events(rows))  # a replay leaves nothing either
    after, user = content(server, tmp_path), user_key(marker)
    assert not [trace for trace in traces if trace in flat(after)]
    named = [key for key in after if user in flat({key: after[key]}) or user.hex().encode() in key]
    names = sorted(key.removeprefix(str(tmp_path).encode()).split(b":")[2] for key in named)
    assert names == [b"buried", b"graves"]
    assert any(marker.encode() in found for found in files(server))
    client = server.client()
    client.bgrewriteaof()
    for _ in range(1000):  # the old files go a little after the new one has come
        if not any(marker.encode() in found for found in files(server)):
            return
        time.sleep(0.01)
    raise AssertionError("it is still in the append-only file, rewritten")


def test_stores_of_two_prefixes_share_a_server(tmp_path):
    one, other = open_redis(tmp_path / "a"), open_redis(tmp_path / "b")
    one.apply_many(numbered(range(30)))
    assert (other.num_users, streamed(other)) == (0, [])
    assert other.apply_many(numbered(range(30))) == [Outcome.ACCEPTED] * 30
    one.delete("u0")
    assert other.get_many(["u0"]) == [folded(numbered(range(30)), "u0")]


# -- full --


def test_a_full_server_says_so_still_reads_and_still_forgets(tmp_path, serve):
    server = serve(maxmemory="6mb")
    store = open_redis(tmp_path, url=server.url)
    kept = pa.concat_tables(until_full(store))
    assert len(kept)
    found = [store.history(user) for user in USERS]
    assert sum(map(len, found)) >= len(kept)
    assert bytes_of(store, *USERS) == [
        to_bytes(folded(table, user), SPEC) for table, user in zip(found, USERS, strict=True)
    ]
    assert len(streamed(store)) == sum(map(len, found))
    store.snapshot(tmp_path / "s.parquet")
    assert store.delete("u1").num_events == len(found[1])
    assert store.get_many(["u1"]) == [EMPTY]
    open_redis(tmp_path, url=server.url).close()
    server.client().config_set("maxmemory", "0")
    assert set(store.apply_many(kept)) == {Outcome.DUPLICATE, Outcome.ERASED}


def until_full(store: MemoryStore) -> Iterator[pa.Table]:
    """What was acknowledged before the server was full."""
    for low in count(0, 250):
        table = numbered(range(low, low + 250))
        try:
            store.apply_many(table)
        except StoreFullError as full:
            if "raise `maxmemory`" in str(full):
                return
            raise
        yield table


def test_a_restore_that_does_not_fit_leaves_the_store_empty(tmp_path, serve):
    table = numbered(range(30))
    state, history = folded(table, "u0"), recorded(table, "u0")
    rows = [(f"u{n:04}", state, history) for n in range(3000)]
    write_snapshot(tmp_path / "s.parquet", rows, spec=SPEC, marks_from=0)
    server = serve(maxmemory="4mb")
    store = open_redis(tmp_path, url=server.url)
    with pytest.raises(StoreFullError):
        store.restore(tmp_path / "s.parquet")
    assert (store.num_users, store.get_many(["u0000"])) == (0, [EMPTY])
    server.client().config_set("maxmemory", "0")
    assert open_redis(tmp_path, url=server.url).restore(tmp_path / "s.parquet").num_users == 3000


def test_a_store_whose_restore_was_cut_off_is_not_opened(tmp_path):
    store = open_redis(tmp_path)
    shared_server().client().hset(Keys(str(tmp_path)).meta.decode(), "restoring", "old.parquet")
    with pytest.raises(ValueError, match=r"being filled from old\.parquet.*new prefix"):
        open_redis(tmp_path)
    store.snapshot(tmp_path / "s.parquet")
    with pytest.raises(ValueError, match="being loaded already"):
        store.restore(tmp_path / "s.parquet")


def test_a_command_that_no_server_takes_is_refused_here(tmp_path):
    server = Server(RedisConfig(url=shared_server().url))
    with pytest.raises(ValueError, match="at most 200,000"):
        server.run([("ECHO", *["x"] * (1 << 20))])


# -- many at once --


@pytest.fixture(scope="module")
def processes() -> Any:
    """New processes forked from a small server that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.models.stores.redis_writer"])
    return context


def started(context: Any, target: Any, *args: Any) -> tuple[Any, Connection]:
    """A process that runs `target(*args, pipe)`, and our end of the pipe."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*args, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def test_processes_that_write_the_same_users_at_once_lose_nothing(tmp_path, processes):
    url = shared_server().url
    ends = [(0, 300), (200, 500), (400, 700), (300, 600)]  # most events are sent by two
    running = [started(processes, writer.write_range, tmp_path, url, *end) for end in ends]
    for _, pipe in running:
        assert pipe.recv_bytes() == b"ready"
    accepted = [int(pipe.recv_bytes()) for _, pipe in running]
    for process, _ in running:
        process.join()
    assert sum(accepted) == 700
    check(open_redis(tmp_path), ids(numbered(range(700))))


def test_a_follower_misses_nothing_while_others_write(tmp_path):
    tables = [numbered(range(n, n + 9), num_users=40) for n in range(0, 1800, 9)]
    stores = [open_redis(tmp_path) for _ in range(4)]
    leader, seen, after = open_redis(tmp_path), [], 0
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(stores[n % 4].apply_many, table) for n, table in enumerate(tables)]
        while not all(one.done() for one in done):
            for number, batch in leader.stream(after):
                assert number > after
                after = number
                seen += ids(batch)
        assert all(set(one.result()) == {Outcome.ACCEPTED} for one in done)
    seen += streamed(leader, after)
    assert sorted(seen) == sorted(f"e{n}" for n in range(1800))
    assert seen == streamed(leader)  # what was read does not change


def test_a_snapshot_under_load_and_the_stream_after_it_are_the_live_store(tmp_path):
    tables = [mixed(range(n, n + 9), num_users=40) for n in range(0, 1800, 9)]
    store, other = open_redis(tmp_path / "a"), open_redis(tmp_path / "b")
    with ThreadPoolExecutor(3) as pool:
        first = list(pool.map(store.apply_many, tables[:50]))
        rest = pool.map(store.apply_many, tables[50:])
        info = store.snapshot(tmp_path / "s.parquet")
        outcomes = [one for many in (*first, *rest) for one in many]
    assert set(outcomes) == {Outcome.ACCEPTED}
    assert 450 <= info.offset < 1800
    other.restore(tmp_path / "s.parquet")
    for _, batch in store.stream(after=info.offset):
        other.apply_many(pa.Table.from_batches([batch]))
    assert list(other.scan()) == list(store.scan())
    assert len(list(store.scan())) == 40


def planned(folder: Path, table: pa.Table, user: str) -> tuple[Writing, Change]:
    """A write of one user's first events that has been worked out and not been sent."""
    server, keys = Server(RedisConfig(url=shared_server().url)), Keys(str(folder))
    (held,) = Reading(server, keys, SPEC).judged({user: ()}).values()
    stored = Stored.pack(recorded(table, user), [b"{}"] * len(recorded(table, user)))
    change = Change(held, user, pack(folded(table, user), SPEC), events=stored.records(SPEC))
    change.numbers = range(1_000_000, 1_000_000 + len(change.events))
    return Writing(server, keys, SPEC), change


def test_a_write_that_is_sent_twice_is_done_once(tmp_path):
    store, table = open_redis(tmp_path), numbered(range(30))
    _, change = planned(tmp_path, table, "u0")
    command = change.command(Keys(str(tmp_path)))
    server = Server(RedisConfig(url=shared_server().url))
    assert server.run([command, command]) == [b"done", b"done"]
    assert server.one(*command) == b"done"
    assert store.get_many(["u0"]) == [folded(table, "u0")]
    assert len(store.interactions("u0")) == 10


@pytest.mark.parametrize("meanwhile", ["written", "erased", "written and erased"])
def test_a_write_that_others_overtook_is_refused_whole(tmp_path, meanwhile):
    store, table = open_redis(tmp_path), numbered(range(30))
    writing, change = planned(tmp_path, table, "u0")
    if "written" in meanwhile:
        store.apply_many(numbered([300]))
    if "erased" in meanwhile:
        store.delete("u0")
    before = content(shared_server(), tmp_path)
    assert writing.commit([change]) == [b"moved"]
    assert content(shared_server(), tmp_path) == before


def test_a_state_is_not_taken_for_one_that_others_have_written_since(tmp_path):
    store = open_redis(tmp_path)
    store.apply_many(numbered(range(60)))
    server = Server(RedisConfig(url=shared_server().url))
    reading = Reading(server, Keys(str(tmp_path)), SPEC)
    held = list(reading.judged({"u0": (), "u1": ()}).values())
    store.apply_many(numbered([60]))  # of u0
    overtaken, same = reading.packed(held)
    assert overtaken is None
    assert unpack(same, SPEC) == folded(numbered(range(60)), "u1")


def test_a_write_with_numbers_that_a_follower_has_passed_takes_new_ones(tmp_path):
    store, table = open_redis(tmp_path), numbered(range(30))
    writing, change = planned(tmp_path, table, "u0")
    change.numbers = range(1, 1 + len(change.events))
    store.apply_many(numbered(range(1, 90, 3)))  # of u1
    assert len(streamed(store)) == 30
    assert writing.commit([change]) == [b"fence30"]
    assert store.apply_many(numbered([300])) == [Outcome.ACCEPTED]
    assert streamed(store, 30) == ["e300"]


def test_numbers_go_on_beyond_what_a_follower_saw_when_the_counter_was_lost(tmp_path):
    store, meta = open_redis(tmp_path), Keys(str(tmp_path)).meta.decode()
    store.apply_many(numbered(range(30)))
    client = shared_server().client()
    client.hset(meta, "sequence", 1 << 40)  # a wide gap, too
    assert store.apply_many(numbered([30])) == [Outcome.ACCEPTED]
    *_, (after, _) = store.stream()
    assert after == (1 << 40) + 1
    client.hset(meta, "sequence", 0)  # as a failover may leave it
    assert store.apply_many(numbered([31])) == [Outcome.ACCEPTED]
    assert streamed(store, after) == ["e31"]


# -- a cluster --


def test_a_cluster_of_three_holds_one_store(tmp_path, serve):
    nodes = [serve(**{"cluster-enabled": "yes"}) for _ in range(3)]
    join_cluster(nodes)
    config = {"url": nodes[0].url, "cluster": True}
    store = open_redis(tmp_path / "a", **config)
    table = mixed(range(600), num_users=200)
    assert store.apply_many(table) == [Outcome.ACCEPTED] * 600
    assert all(node.client().dbsize() > 100 for node in nodes)
    assert streamed(store) == ids(table)
    assert store.delete("u3").num_events == 3
    assert [user for user, _ in store.scan()] == sorted({f"u{n}" for n in range(200)} - {"u3"})
    store.snapshot(tmp_path / "s.parquet")
    other = open_redis(tmp_path / "b", **config)
    other.restore(tmp_path / "s.parquet")
    assert list(other.scan()) == list(store.scan())
    nodes[2].client().config_set("appendfsync", "everysec")
    with pytest.raises(ValueError, match="appendfsync everysec"):
        open_redis(tmp_path / "a", **config)


def join_cluster(nodes: list[RedisServer]) -> None:
    """Gives each a share of the slots, and waits until all know it."""
    edges = [16384 * n // len(nodes) for n in range(len(nodes) + 1)]
    clients = [node.client() for node in nodes]
    for client, (low, high) in zip(clients, pairwise(edges), strict=True):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high - 1)
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    while any(is_parted(client, len(nodes)) for client in clients):
        time.sleep(0.05)


def is_parted(client: Any, num_nodes: int) -> bool:
    """Whether a node does not see all others yet."""
    found = client.execute_command("CLUSTER INFO")
    return (found["cluster_state"], int(found["cluster_known_nodes"])) != ("ok", num_nodes)


# -- killed --


def check(store: MemoryStore, sure: Iterable[str]) -> None:
    """Each acknowledged event is there once, and the states are the folds of the histories."""
    users = [user for user, _ in store.scan()]
    found = pa.concat_tables([store.history(user) for user in users])
    assert len(set(ids(found))) == len(found)
    assert set(sure) <= set(ids(found))
    assert bytes_of(store, *users) == [to_bytes(folded(found, user), SPEC) for user in users]
    assert sorted(streamed(store)) == sorted(ids(found))


def sent(lanes: Iterable[int]) -> list[str]:
    """Ids of the events up to a number, of each writer's own range."""
    return [f"e{n}" for end in lanes for n in range(end // writer.LANE * writer.LANE, end)]


def heard(pipe: Connection) -> list[int]:
    """What a process has said, to the end if it is dead."""
    said = []
    with suppress(EOFError, OSError):
        while pipe.poll():
            said.append(int(pipe.recv_bytes()))
    return said


def at_work(pipe: Connection) -> list[int]:
    """What a writer says until it has stored something, or all that it ever says."""
    said: list[int] = []
    with suppress(EOFError, OSError):
        while len(said) < 2 and pipe.poll(30):
            said.append(int(pipe.recv_bytes()))
    return said


@pytest.mark.slow
def test_killed_writers_lose_nothing_and_apply_nothing_twice(tmp_path, processes):
    random_, url = random.Random(7), shared_server().url
    sure = [lane * writer.LANE for lane in range(3)]
    running = [started(processes, writer.write_on, tmp_path, url, first) for first in sure]
    for num_killed in range(1, 201):
        lane = random_.randrange(len(running))
        process, pipe = running[lane]
        if num_killed % 4:  # the fourth is met wherever it is, perhaps not at work yet
            sure[lane] = max([sure[lane], *at_work(pipe)])
        time.sleep(random_.random() * 0.05)
        process.kill()
        process.join()
        sure[lane] = max([sure[lane], *heard(pipe)])
        first = max(sure[lane] - random_.randrange(10), lane * writer.LANE)
        running[lane] = started(processes, writer.write_on, tmp_path, url, first)
        if num_killed % 50 == 0:
            check_acknowledged(open_redis(tmp_path), sure)
    for lane, (process, pipe) in enumerate(running):
        process.kill()
        process.join()
        sure[lane] = max([sure[lane], *heard(pipe)])
    assert min(end % writer.LANE for end in sure) > 20  # the writers did get to work
    check(open_redis(tmp_path), sent(sure))
    assert set(open_redis(tmp_path).apply_many(rows_of(sure))) == {Outcome.DUPLICATE}


@pytest.mark.slow
def test_a_killed_server_has_all_that_it_acknowledged(tmp_path, serve, processes):
    random_, server = random.Random(8), serve()
    lanes = [lane * writer.LANE for lane in range(3)]
    running = [started(processes, writer.write_on, tmp_path, server.url, first) for first in lanes]
    sure = list(lanes)
    for _ in range(12):
        time.sleep(0.1 + random_.random() * 0.4)
        server.kill()
        server.start()
        for lane, (process, pipe) in enumerate(running):
            sure[lane] = max([sure[lane], *heard(pipe)])
            if not process.is_alive():  # it has sent all
                process.join()
                running[lane] = started(
                    processes, writer.write_on, tmp_path, server.url, sure[lane]
                )
        check_acknowledged(open_redis(tmp_path, url=server.url), sure)
    for lane, (process, pipe) in enumerate(running):
        process.kill()
        process.join()
        sure[lane] = max([sure[lane], *heard(pipe)])
    assert min(end % writer.LANE for end in sure) > 20
    check(open_redis(tmp_path, url=server.url), sent(sure))


def check_acknowledged(store: MemoryStore, sure: Iterable[int]) -> None:
    """While others write: what was acknowledged is in the stream, once."""
    found = streamed(store)
    assert len(set(found)) == len(found)
    assert set(sent(sure)) <= set(found)


def rows_of(sure: Iterable[int]) -> pa.Table:
    """The events behind `sent`."""
    return numbered((int(event[1:]) for event in sent(sure)), writer.NUM_USERS)
