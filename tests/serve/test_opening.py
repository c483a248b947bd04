import subprocess
import sys
import time
from pathlib import Path

import pytest

from models import release as releases
from models.stores import wall_clock
from serve.opening import open_store
from tests.serve.world import USER, WORLD, Client, config_of, event, opened
from tests.worlds import World

OPEN = """
import sys
from pathlib import Path
from models import release as releases
from serve.opening import open_store
from tests.serve.world import config_of

release = Path(sys.argv[1])
print("loaded", flush=True)
loaded = releases.load(release)
sys.stdin.readline()
opened = open_store(config_of(release, Path(sys.argv[2])), loaded)
print(opened.store.num_users, opened.clock(), opened.secret.decode(), flush=True)
sys.stdin.readline()
"""


def test_two_replicas_open_one_store_at_once(release: Path, tmp_path: Path):
    command = [sys.executable, "-c", OPEN, str(release), str(tmp_path / "store")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    replicas = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for replica in replicas:
        assert replica.stdout.readline() == "loaded\n"
    for replica in replicas:
        replica.stdin.write("go\n")
        replica.stdin.flush()
    told = [replica.stdout.readline().split() for replica in replicas]
    for replica in replicas:
        replica.communicate("\n")
        assert replica.returncode == 0
    (users, clock, secret), (users_2, clock_2, secret_2) = told
    assert users == users_2 == "20"
    assert secret == secret_2
    assert abs(int(clock) - int(clock_2)) < 60_000


def test_what_was_posted_outlives_the_service(release: Path, tmp_path: Path):
    config = config_of(release, tmp_path / "store")
    with opened(config) as service:
        client = Client(service)
        client.events(event(1))
        token = client.recommend(page_size=3)["next_page_token"]
        client.close()
    with opened(config) as service:
        client = Client(service)
        assert client.get("/v1/users/ann/memory")["num_events"] == 1
        assert client.events(event(1))["duplicates"] == 1
        assert client.recommend(page_token=token)["items"]
        client.close()


def test_an_erased_user_stays_erased_over_a_start(release: Path, tmp_path: Path):
    config = config_of(release, tmp_path / "store")
    for _ in range(2):
        with opened(config) as service:
            client = Client(service)
            client.delete(f"/v1/users/{USER}/memory")
            assert client.get(f"/v1/users/{USER}/memory")["known"] is False
            client.close()


def test_releases_with_one_memory_share_a_store(release: Path, tmp_path: Path):
    loaded = releases.load(release)
    first = open_store(config_of(release, tmp_path / "store"), loaded)
    first.store.close()
    other = releases.load(World(seed=2).release(tmp_path / "other"))
    second = open_store(config_of(tmp_path / "other", tmp_path / "store"), other)
    second.store.close()
    folders = [path for path in (tmp_path / "store").iterdir() if path.is_dir()]
    assert len(folders) == 2  # other events, so another memory
    assert first.secret == second.secret


def test_the_clock_of_a_release_starts_at_its_newest_event_and_runs_on(release, tmp_path):
    loaded = releases.load(release)
    config = config_of(release, tmp_path / "store")
    for _ in range(2):
        opened_ = open_store(config, loaded)
        first = opened_.clock()
        assert 0 < first - WORLD.watermark_ms < 3_600_000
        time.sleep(0.005)
        assert opened_.clock() > first
        opened_.store.close()


def test_the_wall_clock_is_the_wall_clock(release, tmp_path):
    opened_ = open_store(config_of(release, tmp_path, clock="wall"), releases.load(release))
    assert abs(opened_.clock() - wall_clock()) < 60_000
    opened_.store.close()
    with pytest.raises(ValueError, match="first opened with clock 'wall', not 'release'"):
        open_store(config_of(release, tmp_path, clock="release"), releases.load(release))


def test_the_secret_is_its_owners(release, tmp_path, monkeypatch):
    loaded = releases.load(release)
    opened_ = open_store(config_of(release, tmp_path / "store"), loaded)
    opened_.store.close()
    path = tmp_path / "store" / "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == opened_.secret
    monkeypatch.setenv("EBB_SECRET", "given")
    again = open_store(config_of(release, tmp_path / "store"), loaded)
    again.store.close()
    assert again.secret == b"given"
