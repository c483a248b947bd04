"""The two loops of `bench_train`: the job's own in a Ray Train worker, and a bare PyTorch one.

Both write down a time and a loss after every step. B requests of a batch.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.load import Document
from jobs.prepared import Prepared
from jobs.training import examples_of, rows_of
from models.examples import Examples, Ints
from models.fitting import STAGES, Batch, Splits, Trainer
from models.retrieval.towers import RetrieverBatch
from models.steps import Step
from models.training import StageConfig, optimizers, warm

STEPS = {"retriever": 24, "ranker": 24}
"""Steps measured, after WARM that are not."""
WARM = 6
Loss = Callable[[], Tensor]


@dataclass
class Told:
    """What one run of one stage says of itself."""

    times: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    """Of each step: outcomes of the retriever, candidates of the ranker."""

    def step(self, loss: float) -> None:
        self.times.append(time.perf_counter())
        self.losses.append(loss)

    @property
    def seconds(self) -> float:
        """Of a step, without the first ones."""
        return (self.times[-1] - self.times[WARM - 1]) / (len(self.times) - WARM)


def examples_ready(document: Document) -> tuple[Prepared, Examples]:
    """Examples with the popularity of every day: each day is made once, by whoever comes first."""
    prepared = Prepared.open(document.folder / "prepared", document)
    examples = examples_of(prepared, document)
    for day in np.unique(examples.requests.as_of_ms // 86_400_000).tolist():
        examples.popularity.step(day)
    return prepared, examples


def trainer_of(document: Document, prepared: Prepared, examples: Examples) -> Trainer:
    """Both networks with fresh weights, and the losses of their steps."""
    splits = Splits(rows_of(prepared, "train"), rows_of(prepared, "validate")[:64])
    return Trainer(
        examples, splits, model=document.model, serving=document.serving, train=document.train
    )


def ray_worker(settings: dict[str, Any]) -> None:
    """A Ray Train worker: `jobs.training.worker` with fewer steps, whose feed is the job's."""
    from jobs.feeding import shard

    document = Document.model_validate(settings["document"])
    torch.set_num_threads(1)
    trainer = trainer_of(document, *examples_ready(document))
    told = {stage: Told() for stage in STAGES}

    def feed(stage: int, epoch: int, batch: int) -> Iterator[Ints]:
        batches = shard(stage, epoch, batch, seed=document.train.seed)
        for rows in islice(batches, WARM + STEPS[STAGES[stage]]):
            told[STAGES[stage]].rows.append(rows.tolist())
            yield rows

    with tempfile.TemporaryDirectory() as best:
        trainer.fit(feed, best=Path(best), on_step=lambda stage, done, loss: told[stage].step(loss))
    found = {stage: asdict(one) for stage, one in told.items()}
    Path(settings["told"]).write_text(json.dumps(found))


def bare(
    document: Document,
    prepared: Prepared,
    examples: Examples,
    *,
    fed: dict[str, list[list[int]]],
    ready: bool,
) -> dict[str, Told]:
    """A loop as one writes it in an afternoon: one process, nothing but torch round the networks.

    Args:
        fed: stage to batches of rows, those that the Ray worker saw.
        ready: whether all tensors are made before the clock starts; else each step makes its own.
    """
    trainer = trainer_of(document, prepared, examples)
    told = {stage: Told() for stage in STAGES}
    for number, stage in enumerate(STAGES):
        net, work = trainer._net(number), trainer.work(number)
        steps = [Step(document.train.seed, number, 0, n) for n in range(len(fed[stage]))]
        batches = (
            work.collate(np.asarray(some), step)
            for some, step in zip(fed[stage], steps, strict=True)
        )
        if ready:
            batches = iter(list(batches))
        losses = (
            partial(seeded, step, partial(work.loss, net, noted(batch, told[stage])))
            for batch, step in zip(batches, steps, strict=True)
        )
        num_units = len(trainer.units(number))
        descend(net, getattr(document.train, stage), losses, told[stage], num_units)
    return told


def seeded(step: Step, loss: Loss) -> Tensor:
    """A loss with the dropout that `Trainer` has at a step."""
    step.seed_dropout()
    return loss()


def descend(
    net: nn.Module, config: StageConfig, losses: Iterator[Loss], told: Told, num_rows: int
) -> None:
    """The bare loop of one stage, with the rates of the job."""
    num_steps, adam = -(-num_rows // config.batch), optimizers(net, config)
    net.train()
    for number, take in enumerate(losses):
        warm(adam, config, number / num_steps / config.epochs)
        loss = take()
        for optimizer in adam:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(adam[0].param_groups[0]["params"], 1.0)
        for optimizer in adam:
            optimizer.step()
        told.step(float(loss.detach()))


def noted(batch: Batch, told: Told) -> Batch:
    """The batch, whose size was written down."""
    real = batch.positives if isinstance(batch, RetrieverBatch) else batch.places[batch.places > 0]
    told.samples.append(len(real))
    return batch
