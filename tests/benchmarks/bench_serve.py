"""The service over HTTP beside its stages called in this process: one release, one store.

Needs `make prepare train release`. Starts a service of its own on a free port and ends it.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np

from serve.schemas import RecommendRequest, SearchRequest
from serve.service import Service
from tests.benchmarks import load, table
from tests.benchmarks.serving import agree, over_http, requests_of, serving

REPEATS, NUM_REQUESTS, NUM_CHECKED, CLIENTS = 3, 300, 100, (1, 16)
NUM_EVENTS = {1: 200, 100: 3_000}
"""Events a batch to events a run."""
HTTP, HERE = "HTTP", "in process"


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
    for endpoint, given in requests_of(service.config.release, NUM_REQUESTS).items():
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
            replies = [r for runs in found.values() for run in runs for r in run["replies"]]
            whole = all(len(r["items"]) == 20 and not r["degraded"] for r in replies)
            report.check(
                f"{endpoint}, {clients}: all replies have 20 items, no stage skipped", whole
            )
        sample = given[:NUM_CHECKED]
        report.check(
            f"{endpoint}: items and scores of {NUM_CHECKED} requests",
            agree(port, f"/v1/{endpoint}", sample, lambda one, k=kind, s=stage: s(k(**one))),
        )
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


def events(service: Service, port: int) -> table.Report:
    """Durable events a second, one after the other and sixteen at a time."""
    report = table.Report(
        f"serve, durable events a second, {REPEATS} alternating runs: median (lowest–highest)",
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
    table.show(*reports)


if __name__ == "__main__":
    main()
