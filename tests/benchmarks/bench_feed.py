"""The feed of training: pointers and collation beside tensors in memory and a plain DataLoader."""

from __future__ import annotations

import os

# Read when numpy and torch are imported; as in a worker of one CPU.
os.environ["OMP_NUM_THREADS"] = "1"

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from jobs import console, pipeline
from models.fitting import Splits, Trainer
from models.model import ServingConfig
from models.prefetch import ahead
from models.steps import Step
from models.training import TrainConfig, optimizers, take
from tests.benchmarks import feeds, table
from tests.benchmarks.feeds import BATCH, MODEL, Feeds, Tensors

REPEATS = 3
OURS, INLINE, READY = "ours, ahead", "ours, inline", "tensors in memory"
STEPS, WARM = 40, 8
MANY = 5_000_000
"""Pointers of the Ray shard that is timed."""


def rate(feed: Callable[[], Iterator[Tensors]], limit: int | None = None) -> tuple[float, float]:
    """Rows a second of an epoch, or of its first batches, and seconds until the first of them."""
    begin, first, num = time.perf_counter(), 0.0, 0
    for batch in islice(feed(), limit):
        first = first or time.perf_counter() - begin
        num += len(batch["outcome"])
    return num / (time.perf_counter() - begin), first


def add_rates(report: table.Report, made: Feeds) -> None:
    """Rows a second of all feeds, in turn."""
    sides = {
        OURS: partial(rate, made.ours),
        INLINE: partial(rate, partial(made.ours, off_thread=False)),
        READY: partial(rate, made.ready),
    }
    for workers in (0, 2):
        for by_row, unit, limit in ((False, "group by group", None), (True, "row by row", 5)):
            name = f"DataLoader/{workers}, {unit}"
            sides[name] = partial(rate, partial(made.loader, workers, by_row=by_row), limit)
    found = table.alternate(sides, REPEATS)
    ours = [rows for rows, _ in found[OURS]]
    for name, runs in found.items():
        rates, firsts = zip(*runs, strict=True)
        report.row(
            f"rows/s: {name}",
            table.spread(rates),
            table.ratio(ours, rates),
            table.spread([1000 * first for first in firsts], ",.0f"),
        )
    head = feeds.gathered(made.examples, made.rows[:BATCH])
    for by_row in (False, True):
        other = next(iter(made.loader(0, by_row=by_row)))
        report.check(f"the first {BATCH} examples of the file", feeds.same(head, other))


def add_bytes(report: table.Report, made: Feeds) -> None:
    """Bytes on disk, of all and without the user level, which both write once per example."""
    num = len(made.rows)
    narrow = sum(path.stat().st_size for path in made.narrow.iterdir())
    wide = made.wide.stat().st_size
    long = column_bytes(made.narrow / "requests.parquet", "long")
    repeated = column_bytes(made.wide, "long")
    for title, ours, theirs in (
        ("bytes an example", narrow, wide),
        ("the same without the user level", narrow - long, wide - repeated),
    ):
        cells = f"{ours / num:,.0f}", f"{theirs / num:,.0f}"
        report.row(f"{title}, ours | wide", " | ".join(cells), f"{ours / theirs:.2f}x", "")


def column_bytes(path: Path, name: str) -> int:
    """Compressed bytes of one column of a Parquet file."""
    footer = pq.ParquetFile(path).metadata
    groups = (footer.row_group(number) for number in range(footer.num_row_groups))
    columns = (group.column(n) for group in groups for n in range(group.num_columns))
    return sum(c.total_compressed_size for c in columns if c.path_in_schema.split(".")[0] == name)


def training(made: Feeds, stage: int, off_thread: bool) -> tuple[float, float]:
    """Seconds of a step, and the share of it that the training thread waits for its batch."""
    train = TrainConfig()
    rows = made.rows[-20_000:]
    trainer = Trainer(
        made.examples,
        Splits(rows, rows[:64]),
        model=MODEL,
        serving=ServingConfig(),
        train=train,
    )
    work, net = trainer.work(stage), (trainer.towers, trainer.ranker)[stage]
    config = (train.retriever, train.ranker)[stage]
    tools, units = optimizers(net, config), trainer.units(stage)
    order = np.random.default_rng(2).permutation(units)[: (WARM + STEPS) * config.batch]
    given = (order[i : i + config.batch] for i in range(0, len(order), config.batch))
    net.train()
    collate = partial(work.collate, step=Step(1, stage))

    def steps(batches: Iterator[Any]) -> tuple[float, float]:
        waited = 0.0
        for number in range(WARM + STEPS):
            if number == WARM:
                begin, waited = time.perf_counter(), 0.0
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            take(net, work.loss(net, batch), tools)
        took = time.perf_counter() - begin
        return took / STEPS, waited / took

    if not off_thread:
        return steps(map(lambda rows: collate(rows), given))  # noqa: C417  # lazily, as a feed is
    with ahead(given, lambda rows: collate(rows)) as batches:
        return steps(batches)


def add_training(report: table.Report, made: Feeds) -> None:
    """The steps of both networks with batches made ahead, and made in the training thread."""
    for day in np.unique(made.examples.requests.as_of_ms // 86_400_000).tolist():
        made.examples.popularity.step(day)  # each is made once, by whoever comes first
    for stage, name in enumerate(("retriever", "ranker")):
        sides = {
            "ahead": partial(training, made, stage, True),
            "inline": partial(training, made, stage, False),
        }
        found = table.alternate(sides, REPEATS)
        ours = [seconds for seconds, _ in found["ahead"]]
        for side, title in (("ahead", OURS), ("inline", INLINE)):
            seconds, waited = zip(*found[side], strict=True)
            report.row(
                f"{name}, {title}: ms/step | waiting",
                f"{table.spread([1000 * s for s in seconds], '.1f')} | {table.median(waited):.0%}",
                table.ratio(ours, seconds),
                "",
            )


def shard_worker(settings: dict[str, Any]) -> None:
    """A Ray Train worker that only takes what the shard gives; three epochs, the first is cold."""
    import ray.train

    from jobs.feeding import shard

    context, firsts, rates = ray.train.get_context(), [], []
    for epoch in range(4):
        begin = time.perf_counter()
        batches = iter(shard(0, epoch, BATCH, seed=1))
        num = len(next(batches))
        firsts.append(time.perf_counter() - begin)
        num += sum(map(len, batches))
        rates.append(num / (time.perf_counter() - begin))
    path = Path(settings["told"]) / f"{context.get_world_rank()}.json"
    path.write_text(json.dumps([firsts[1:], rates[1:]]))


def add_shards(report: table.Report) -> None:
    """Milliseconds until the first batch of pointers of a warm epoch, through Ray."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from jobs.feeding import in_order, pointers

    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            TorchTrainer(
                shard_worker,
                train_loop_config={"told": folder},
                scaling_config=ScalingConfig(
                    num_workers=workers, resources_per_worker={"CPU": 1 / workers}
                ),
                datasets={"retriever": pointers(np.arange(MANY), seed=1)},
                dataset_config=in_order(),
                run_config=RunConfig(name="feed", storage_path=folder),
            ).fit()
            told = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
        firsts = [1000 * first for firsts, _ in told for first in firsts]
        rates = [rows for _, all_rates in told for rows in all_rates]
        title = f"rows/s: Ray shard, each of {workers}"
        report.row(title, table.spread(rates), "", table.spread(firsts, ",.0f"))


def main() -> None:
    torch.set_num_threads(1)
    report = table.Report(
        f"feed, {feeds.NUM_REQUESTS:,} requests of {feeds.NUM_USERS:,} users with "
        f"{feeds.NUM_EVENTS} events, batch {BATCH:,}, one thread, {REPEATS} alternating runs: "
        "median (lowest–highest)",
        ["", "", "ours : this", "first batch, ms"],
    )
    with table.scratch() as folder:
        made = Feeds(feeds.world(), folder)
        assert made.whole
        assert made.wide.is_file()  # both are made before the clock starts
        add_rates(report, made)
        report.line()
        add_bytes(report, made)
        report.line()
        add_training(report, made)
        report.line()
        with console.ray_session():
            pipeline.quiet()
            add_shards(report)
    report.note(
        "Inline: collated in the training thread. DataLoader/N: over the wide file, one row per "
        f"example, with N workers, in the order of the file; ours is shuffled. Ray shard: {MANY:,} "
        f"pointers for 1 or 2 workers, without collation. A row: the {MODEL.features.history} "
        "newest interactions, the user level and the outcome. Waiting: the share of a step that "
        "the training thread has no batch. First batch: of a warm epoch."
    )
    table.show(report)


if __name__ == "__main__":
    main()
