"""Both sides of `bench_serve`: a service behind HTTP, and the same over the same store here."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from models.text import words
from serve.launch import read_plan, set_environment
from serve.service import Service
from tests.benchmarks import load

CONFIG = Path("configs/serve.yaml")


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Service, int]]:
    """The service behind HTTP in processes of its own, and the same over the same store here."""
    set_environment()  # infra/serve.env; the service's process takes it over
    # Nothing is skipped for being late, so that both sides do the same work at any load.
    args = [f"store.path={folder / 'store'}", "budgets.memory=60s", "budgets.rank=60s"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [part for arg in args for part in ("--set", arg)]
    command = [sys.executable, "-m", "serve", "--config", str(CONFIG), "--port", str(port)]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    try:
        wait(process, port, folder / "serve.log")
        service = Service.open(read_plan(CONFIG, args).config)
        torch.set_num_threads(service.config.torch_threads)
        service.warm_up()
        yield service, port
        service.close()
    finally:
        process.terminate()
        process.wait(60)


def wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until the service has said all that it says at its start."""
    end = time.monotonic() + 180
    while "Ctrl-C" not in log.read_text():
        if process.poll() is not None or time.monotonic() > end:
            raise ValueError(f"the service does not start:\n{log.read_text()}")
        time.sleep(0.2)
    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=10).close()


def requests_of(release: Path, count: int) -> dict[str, list[dict[str, Any]]]:
    """Known users, drawn at random; queries of two words of an item's text."""
    draw = np.random.default_rng(1)
    users = pq.read_table(release / "memory.parquet", columns=["user_id"])["user_id"].to_pylist()
    texts = pq.read_table(release / "catalogue.parquet", columns=["text"])["text"].to_pylist()
    asked = [str(user) for user in draw.choice(users, count)]
    queries = [" ".join(words(text)[-2:]) for text in draw.choice(texts, count)]
    pairs = zip(asked, queries, strict=True)
    return {
        "recommend": [{"user_id": user} for user in asked],
        "search": [{"user_id": user, "query": query or "red"} for user, query in pairs],
    }


def over_http(port: int, path: str, bodies: list[str], clients: int) -> dict[str, Any]:
    """One run of the load generator."""
    asked = {"port": port, "path": path, "bodies": bodies, "clients": clients}
    command = [sys.executable, "-m", "tests.benchmarks.load"]
    done = subprocess.run(
        command, input=json.dumps(asked), text=True, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def agree(
    port: int, path: str, given: Sequence[dict[str, Any]], here: Callable[[dict[str, Any]], Any]
) -> bool:
    """Equal items and scores over HTTP and in process, each request asked on both sides at once.

    The service's time goes on by some milliseconds in between, and so do ages: scores agree to four
    digits.
    """
    call = load.post(port, path)
    for one in given:
        a, b = json.loads(call(json.dumps(one))), here(one)
        pairs = list(zip(a["items"], b["items"], strict=True))
        if a["degraded"] or b["degraded"] or not pairs:
            return False
        if any(x["item_id"] != y["item_id"] for x, y in pairs):
            return False
        if not all(math.isclose(x["score"], y["score"], rel_tol=1e-4) for x, y in pairs):
            return False
    return True
