"""`ray job submit` to a cluster of the test's own, as the README shows it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from configs.load import Document
from tests.jobs import retail

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RAY = str(Path(sys.executable).with_name("ray"))
MARK = "EBB_TEST_CLUSTER"


def free_ports(count: int) -> list[int]:
    """Ports that nobody has; not of 10002 to 19999, which Ray keeps for workers."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(8 * count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    return [port for port in ports if not 10002 <= port <= 19999][:count]


def marked(mark: str) -> list[int]:
    """Processes that were started with a mark in their environment, by us or by what we started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                names = (folder / "environ").read_bytes().split(b"\0")
            except OSError:  # gone by now, or somebody else's
                continue
            if f"{MARK}={mark}".encode() in names:
                found.append(int(folder.name))
    return found


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """`ray start --head` below a folder; gives the environment of its clients.

    `ray stop` would end every Ray on the machine. The processes of this one are known by a mark in
    their environment.
    """
    gcs, dashboard, agent, client, metrics, runtime = map(str, free_ports(6))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {
        MARK: folder.name,
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "WANDB_MODE": "offline",
    }
    ports = {
        "port": gcs,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "metrics-export-port": metrics,
        "runtime-env-agent-port": runtime,
        "min-worker-port": "0",
        "max-worker-port": "0",
        "node-ip-address": "127.0.0.1",
        "num-cpus": "2",
        "object-store-memory": "150000000",
    }
    command = [RAY, "start", "--head", "--block", *(f"--{k}={v}" for k, v in ports.items())]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{dashboard}/api/version", head)
        yield environment
    finally:
        while left := marked(folder.name):
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            head.wait()
            time.sleep(0.1)


def wait_for(url: str, head: subprocess.Popen[bytes]) -> None:
    """Until the cluster takes jobs."""
    end = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert head.poll() is None, "ray start has ended by itself"
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    # Ray's sockets lie in there, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="ebb-", ignore_cleanup_errors=True) as folder:
        with cluster(Path(folder)) as environment:
            yield environment
        assert not marked(Path(folder).name)


def submit(environment: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [RAY, "job", "submit", "--working-dir", ".", "--", "python", "-m", *args]
    return subprocess.run(
        command, cwd=retail.ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_train_runs_as_a_submitted_job(
    environment: dict[str, str], prepared: Document, lines: Path, fresh: object, tmp_path: Path
):
    short = ("train.retriever={epochs: 1, batch: 64}", "train.ranker={epochs: 1, batch: 32}")
    args = [
        a.replace(str(retail.ROOT) + "/", "") for a in retail.arguments(lines, tmp_path, *short)
    ]
    done = submit(environment, "jobs.train", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert "Validation of the weights kept" in done.stdout
    folder = tmp_path / prepared.name
    told = json.loads((folder / "model/model.json").read_text())
    assert told["digest"] == prepared.model.digest()
    assert {path.name for path in (folder / "model").iterdir()} == {
        *("model.json", "config.json", "seal.json", "catalogue.parquet"),
        *("retriever.safetensors", "ranker.safetensors"),
    }
    assert list((folder / "wandb").glob("offline-run-*"))
