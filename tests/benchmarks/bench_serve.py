"""The service over HTTP beside its stages called in this process: one release, one store.

Needs `make prepare train release`. Starts a service of its own on a free port and ends it.
"""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from models.text import words
from serve.launch import read_plan, set_environment
from serve.schemas import RecommendRequest, SearchRequest
from serve.service import Service
from tests.benchmarks import load, table

REPEATS, NUM_REQUESTS, CLIENTS = 3, 300, (1, 16)
NUM_EVENTS = {1: 200, 100: 3_000}
"""Events a batch to events a run."""
HTTP, HERE = "HTTP", "in process"
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


def requests_of(release: Path) -> dict[str, list[dict[str, Any]]]:
    """Known users, drawn at random; queries of two words of an item's text."""
    draw = np.random.default_rng(1)
    users = pq.read_table(release / "memory.parquet", columns=["user_id"])["user_id"].to_pylist()
    texts = pq.read_table(release / "catalogue.parquet", columns=["text"])["text"].to_pylist()
    asked = [str(user) for user in draw.choice(users, NUM_REQUESTS)]
    queries = [" ".join(words(text)[-2:]) for text in draw.choice(texts, NUM_REQUESTS)]
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


def slates(service: Service, port: int) -> table.Report:
    """Latency and throughput of both endpoints, and whether the replies agree."""
    report = table.Report(
        f"serve, online_retail, {NUM_REQUESTS} requests a run, {REPEATS} alternating runs: median",
        ["", "p50 ms", "p99 ms", "requests a second", "HTTP : in process", "stages p50 ms"],
    )
    pipeline = service.pipeline
    stages = {
        "recommend": (RecommendRequest, pipeline.recommend),
        "search": (SearchRequest, pipeline.search),
    }
    for endpoint, given in requests_of(service.config.release).items():
        kind, stage = stages[endpoint]
        bodies, asked = [json.dumps(one) for one in given], [kind(**one) for one in given]
        for clients in CLIENTS:
            sides = {
                HTTP: partial(over_http, port, f"/v1/{endpoint}", bodies, clients),
                HERE: partial(load.drive, [stage] * clients, asked),
            }
            found = table.alternate(sides, REPEATS)
            rates = {name: [NUM_REQUESTS / run["seconds"] for run in found[name]] for name in found}
            for name, runs in found.items():
                what = f"{endpoint}, {clients} client{'s'[: clients > 1]}, {name}"
                ratio = table.ratio(rates[HTTP], rates[HERE]) if name == HTTP else ""
                report.row(what, *times(runs), table.spread(rates[name]), ratio, inside(runs))
            both = [run["replies"] for name in (HTTP, HERE) for run in found[name]]
            report.check(f"{endpoint}, {clients}: items, scores", same(both))
        report.line()
    return report


def times(runs: list[dict[str, Any]]) -> list[str]:
    """p50 and p99 in milliseconds, medians over the runs."""
    shares = [np.percentile(run["took"], [50, 99]) * 1000 for run in runs]
    return [f"{table.median([share[place] for share in shares]):.1f}" for place in (0, 1)]


def inside(runs: list[dict[str, Any]]) -> str:
    """The median of what the stages themselves took, as the replies tell."""
    taken = [[reply["timings_ms"]["total"] for reply in run["replies"]] for run in runs]
    return f"{table.median([table.median(run) for run in taken]):.1f}"


def same(runs: list[list[dict[str, Any]]]) -> bool:
    """Equal items; scores as good as equal, as the service's time went on between the calls."""
    first = runs[0]
    for run in runs[1:]:
        for a, b in zip(first, run, strict=True):
            pairs = list(zip(a["items"], b["items"], strict=True))
            if a["degraded"] or b["degraded"] or len(pairs) < 20:
                return False
            if any(x["item_id"] != y["item_id"] for x, y in pairs):
                return False
            if not all(math.isclose(x["score"], y["score"], rel_tol=1e-4) for x, y in pairs):
                return False
    return True


def events(service: Service, port: int) -> table.Report:
    """Durable events a second, one after the other and sixteen at a time."""
    report = table.Report(
        f"serve, durable events a second, {REPEATS} alternating runs: median (lowest to highest)",
        ["", HTTP, HERE, "HTTP : in process"],
    )
    draw, sent = np.random.default_rng(2), 0
    users = [f"bench-{number}" for number in range(500)]
    items = service.release.recommender.catalogue.item_ids

    def bodies(batch: int) -> list[str]:
        nonlocal sent
        made = []
        for _ in range(NUM_EVENTS[batch] // batch):
            rows = [
                {"event_id": f"b{sent + n}", "user_id": user, "item_id": item, "action": "purchase"}
                for n, (user, item) in enumerate(
                    zip(draw.choice(users, batch), draw.choice(items, batch), strict=True)
                )
            ]
            sent += batch
            made.append(json.dumps({"events": rows}))
        return made

    for batch in NUM_EVENTS:
        for clients in CLIENTS:
            here = [lambda body: service.intake(body.encode())] * clients
            sides = {
                HTTP: lambda b=batch, c=clients: over_http(port, "/v1/events", bodies(b), c),
                HERE: lambda b=batch, calls=here: load.drive(calls, bodies(b)),
            }
            found = table.alternate(sides, REPEATS)
            rates = {
                name: [NUM_EVENTS[batch] / run["seconds"] for run in runs]
                for name, runs in found.items()
            }
            cells = [table.spread(rates[name]) for name in (HTTP, HERE)]
            what = f"batches of {batch}, {clients} client{'s'[: clients > 1]}"
            report.row(what, *cells, table.ratio(rates[HTTP], rates[HERE]))
            replies = [reply for runs in found.values() for run in runs for reply in run["replies"]]
            report.check(
                f"{what}: all accepted", all(reply["accepted"] == batch for reply in replies)
            )
    states = service.opened.store.get_many(users)
    stored = sum(len(service.opened.store.history(user)) for user in users)
    report.check(f"{sent:,} events sent, {stored:,} stored", sent == stored)
    report.check(f"{len(users)} users with a state", all(states))
    return report


def main() -> None:
    with table.scratch() as folder, serving(folder) as (service, port):
        reports = slates(service, port), events(service, port)
    for report in reports:
        report.show()


if __name__ == "__main__":
    main()
