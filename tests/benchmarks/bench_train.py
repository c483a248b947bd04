"""Training inside Ray Train beside a bare PyTorch loop: same networks, same batches, same losses.

Needs `make prepare`. The popularity of all days is made before the clock starts, on all sides.
"""

from __future__ import annotations

import os

# Read when numpy and torch are imported; as in a worker of one CPU.
os.environ["OMP_NUM_THREADS"] = "1"

import itertools
import json
import time
from functools import partial
from pathlib import Path

import torch

from configs.load import Document, load
from jobs import console
from jobs.feeding import in_order, pointers
from jobs.preparing import pipeline
from models.fitting import STAGES
from tests.benchmarks import loops, table
from tests.benchmarks.loops import Told

REPEATS = 3
RAY, BARE, READY = "Ray Train", "bare loop", "tensors ready"


class Sides:
    """The three loops; the Ray worker says which rows it was fed, the others take the same."""

    def __init__(self, document: Document, folder: Path) -> None:
        self.document, self.folder = document, folder
        self.prepared, self.examples = loops.examples_ready(document)
        self.fed: dict[str, list[list[int]]] = {}
        self.runs = itertools.count()
        self.overhead: list[float] = []
        """Seconds of each `fit` outside the steps."""

    def ray(self) -> dict[str, Told]:
        """One training by Ray Train, cut short."""
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        where = self.folder / f"ray-{next(self.runs)}"
        where.mkdir()
        pipeline.quiet()
        made = loops.trainer_of(self.document, self.prepared, self.examples)
        seed = self.document.train.seed
        trainer = TorchTrainer(
            loops.ray_worker,
            train_loop_config={
                "document": self.document.model_dump(mode="json"),
                "told": str(where / "told.json"),
            },
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            datasets={s: pointers(made.units(n), seed=seed) for n, s in enumerate(STAGES)},
            dataset_config=in_order(),
            run_config=RunConfig(name="run", storage_path=str(where)),
        )
        begin = time.perf_counter()
        trainer.fit()
        took = time.perf_counter() - begin
        found = json.loads((where / "told.json").read_text())
        told = {stage: Told(**fields) for stage, fields in found.items()}
        self.overhead.append(took - sum(one.seconds * len(one.times) for one in told.values()))
        self.fed = {stage: one.rows for stage, one in told.items()}
        return told

    def bare(self, ready: bool) -> dict[str, Told]:
        """The bare loop in this process."""
        torch.set_num_threads(1)
        return loops.bare(self.document, self.prepared, self.examples, fed=self.fed, ready=ready)


def main() -> None:
    one = ["train.retriever.epochs=1", "train.ranker.epochs=1"]
    document = load("configs/online_retail.yaml", one)
    document = document.model_copy(update={"runs": str(Path(document.runs).resolve())})
    with table.scratch() as folder, console.ray_session():
        sides = Sides(document, folder)
        found = table.alternate(
            {RAY: sides.ray, BARE: partial(sides.bare, False), READY: partial(sides.bare, True)},
            REPEATS,
        )
    report = table.Report(
        f"train, online_retail, one thread, {REPEATS} alternating runs: median (lowest–highest)",
        ["", RAY, BARE, READY, "Ray : bare", "Ray : ready"],
    )
    for number, stage in enumerate(STAGES):
        add_stage(report, document, stage, {n: [run[stage] for run in r] for n, r in found.items()})
        if number == 0:
            report.line()
    report.line()
    report.row("rest of a fit, s", table.spread(sides.overhead, ".1f"))
    report.note(
        f"{BARE}: rows in memory, each step gathers its tensors. {READY}: all tensors were made "
        "before the clock started. The rest of a fit: a worker starts, reads the prepared data, "
        "validates twice on 64 requests and ends."
    )
    table.show(report)


def add_stage(
    report: table.Report, document: Document, stage: str, found: dict[str, list[Told]]
) -> None:
    """Steps, requests and samples a second of one stage, and whether the losses agree."""
    seconds = {name: [run.seconds for run in runs] for name, runs in found.items()}
    measured = found[READY][0].samples[loops.WARM :]
    samples = sum(measured) / len(measured)
    what = "outcomes" if stage == "retriever" else "candidates"
    batch = getattr(document.train, stage).batch

    def add(title: str, each: float) -> None:
        rates = {name: [each / s for s in took] for name, took in seconds.items()}
        cells = [table.spread(rates[name]) for name in (RAY, BARE, READY)]
        report.row(title, *cells, *(table.ratio(rates[RAY], rates[n]) for n in (BARE, READY)))

    add(f"{stage}: requests/s", batch)
    add(f"{stage}: {what}/s", samples)
    report.row(
        f"{stage}: ms a step",
        *(table.spread([1000 * s for s in seconds[n]], ".0f") for n in (RAY, BARE, READY)),
    )
    add_checks(report, stage, [run for side in found.values() for run in side])


def add_checks(report: table.Report, stage: str, runs: list[Told]) -> None:
    """All runs went the same way down.

    Two processes may round a sum differently, and every step carries that on; so the first loss is
    held to more digits than the last.
    """
    first, last = ([run.losses[place] for run in runs] for place in (0, -1))
    for losses, number, digits in ((first, 1, 1e-5), (last, len(runs[0].losses), 1e-2)):
        apart = (max(losses) - min(losses)) / min(losses)
        report.check(
            f"{stage}, loss of step {number} in all {len(runs)} runs: {losses[0]:.4f}, at most "
            f"{apart:.0e} of it apart",
            apart <= digits,
        )


if __name__ == "__main__":
    main()
