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
from models.fitting import STAGES, Splits, Trainer
from models.model import build
from models.ranking.ranker import ranking_loss
from models.retrieval.retrieve import Retriever
from models.training import (
    NegativeSampler,
    drop_levels,
    optimizers,
    retriever_batch,
    thin,
    warm,
)

STEPS = {"retriever": 30, "ranker": 60}
"""Steps measured, after WARM that are not."""
WARM = 8


Losses = Callable[[nn.Module, "Told", np.random.Generator], Iterator[Callable[[], Tensor]]]


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
        examples.popularity.day(day)
    return prepared, examples


def ray_worker(settings: dict[str, Any]) -> None:
    """A Ray Train worker: `jobs.training.worker` with fewer steps, whose feed is the job's."""
    from jobs.training import shard

    document = Document.model_validate(settings["document"])
    torch.set_num_threads(1)
    prepared, examples = examples_ready(document)
    splits = Splits(rows_of(prepared, "train"), rows_of(prepared, "validate")[:64])
    trainer = Trainer(
        examples, splits, model=document.model, serving=document.serving, train=document.train
    )
    told = {stage: Told() for stage in STAGES}

    def feed(stage: int, epoch: int, batch: int) -> Iterator[Ints]:
        batches = shard(stage, epoch, batch, seed=document.train.seed, world=1)
        for rows in islice(batches, WARM + STEPS[STAGES[stage]]):
            told[STAGES[stage]].rows.append(rows.tolist())
            yield rows

    with tempfile.TemporaryDirectory() as best:
        trainer.fit(feed, best=Path(best), on_step=lambda stage, done, loss: told[stage].step(loss))
    found = {stage: asdict(one) for stage, one in told.items()}
    Path(settings["told"]).write_text(json.dumps(found))


class Bare:
    """A loop as one writes it in an afternoon: one process, nothing but torch round the networks.

    Args:
        fed: stage to batches of rows, those that the Ray worker saw.
        train_rows: all training rows, for the shares of negatives and the learning rate.
        ready: whether all tensors are made before the clock starts; else each step gathers its own.
    """

    def __init__(
        self,
        document: Document,
        examples: Examples,
        *,
        fed: dict[str, list[list[int]]],
        train_rows: Ints,
        ready: bool,
    ) -> None:
        self.document, self.examples, self.ready = document, examples, ready
        self.fed = {stage: [np.asarray(rows) for rows in batches] for stage, batches in fed.items()}
        self.train_rows = train_rows

    def run(self) -> dict[str, Told]:
        """Both stages, the second over what the first has learnt."""
        document, catalogue = self.document, self.examples.catalogue
        torch.manual_seed(document.train.seed)
        towers, ranker = build(catalogue, document.model)
        told = {stage: Told() for stage in STAGES}
        self._loop(towers, told["retriever"], 0, self._of_towers)
        retriever = Retriever(
            towers,
            catalogue=catalogue,
            popularity=self.examples.popularity,
            features=document.model.features,
            config=document.serving.candidates,
        )
        self._loop(ranker, told["ranker"], 1, partial(self._of_ranker, retriever))
        return told

    def _loop(self, net: nn.Module, told: Told, number: int, losses: Losses) -> None:
        train = self.document.train
        config = (train.retriever, train.ranker)[number]
        generator = np.random.default_rng([train.seed, number, 0, 0])  # as `Trainer` draws
        torch.manual_seed(int(generator.integers(1 << 31)))
        num_steps, adam = -(-len(self.train_rows) // config.batch), optimizers(net, config)
        steps = losses(net, told, generator)
        net.train()
        for number_done, loss_of in enumerate(list(steps) if self.ready else steps):
            warm(adam, config, number_done / num_steps / config.epochs)
            loss = loss_of()
            for optimizer in adam:
                optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(adam[0].param_groups[0]["params"], 1.0)
            for optimizer in adam:
                optimizer.step()
            told.step(float(loss.detach()))

    def _of_towers(
        self, net: nn.Module, told: Told, generator: np.random.Generator
    ) -> Iterator[Callable[[], Tensor]]:
        """The loss of each step, to be called; its tensors are made when it is taken."""
        train, examples = self.document.train, self.examples
        num_negatives = self.document.model.retriever.num_negatives
        outcomes = examples.requests.pairs(self.train_rows)[1]
        sampler = NegativeSampler(outcomes, len(examples.catalogue), num_negatives)
        for rows in self.fed["retriever"]:
            batch = retriever_batch(
                examples, rows, sampler=sampler, config=train, generator=generator
            )
            told.samples.append(len(batch.positives))
            yield partial(net, batch)

    def _of_ranker(
        self, retriever: Retriever, net: nn.Module, told: Told, generator: np.random.Generator
    ) -> Iterator[Callable[[], Tensor]]:
        """`models.training.ranker_loss` in two halves: what can be made ready, and the network."""
        train, model, examples = self.document.train, self.document.model, self.examples
        for rows in self.fed["ranker"]:
            user = examples.user_side(rows)
            places = retriever.recommend(user).places
            labels = examples.labels(rows, places, len(model.heads))
            places, labels, kept = thin(places, labels, train.num_candidates, generator)
            popularity = examples.popularity.read(user.now_days, places)
            user = user.keep(drop_levels(len(rows), train.level_dropout, generator))
            told.samples.append(int((places > 0).sum()))
            given, weight = (user, places, popularity), model.ranker.listwise_weight
            yield partial(_ranker_loss, net, given, labels, kept, weight)


def _ranker_loss(net: nn.Module, given: Any, labels: Tensor, kept: Tensor, weight: float) -> Tensor:
    return ranking_loss(net(*given), labels, given[1] > 0, kept=kept, listwise_weight=weight)
