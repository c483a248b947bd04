"""The training loop: two stages, epochs, validation, the best weights, and a way to go on later.

It knows no Ray: the job hands it a feed of rows, a wrapper for networks and a callback.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models import evaluation
from models.checkpoints import load_optimizers, load_weights, save_optimizers, save_weights
from models.examples import Examples, Ints
from models.model import ModelConfig, Recommender, ServingConfig, build
from models.prefetch import ahead
from models.ranking.calibration import Platt, fit_platt
from models.retrieval.retrieve import Retriever
from models.retrieval.towers import RetrieverBatch
from models.training import (
    NegativeSampler,
    RankerBatch,
    StageConfig,
    TrainConfig,
    optimizers,
    ranker_batch,
    ranker_loss,
    retriever_batch,
    step,
    warm,
)

STAGES = ("retriever", "ranker")
Feed = Callable[[int, int, int], Iterator[Ints]]
"""Stage number, epoch, batch size to batches of training rows."""
Wrap = Callable[[nn.Module], nn.Module]
"""A network to what computes its loss on several workers, such as DDP."""


@dataclass
class Progress:
    """How far training has come; saved with every checkpoint."""

    stage: int = 0
    """Number of the stage going on; `len(STAGES)` when all is done."""
    epoch: int = 0
    """The next epoch of that stage."""
    best: float = float("-inf")
    """Best validation of the stage so far."""
    stale: int = 0
    """Epochs since then."""
    calibration: list[tuple[float, float]] = field(default_factory=list)
    """Scale and bias of each head, fitted on validation with the best ranker."""
    history: list[dict[str, float | str]] = field(default_factory=list)
    """The figures of every epoch."""

    def save(self, path: Path) -> None:
        """Writes JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def load(path: Path) -> Progress:
        """Reads what `save` wrote."""
        return Progress(**json.loads(path.read_text()))


Batch = RetrieverBatch | RankerBatch


@dataclass(frozen=True)
class Work:
    """What one stage does, in two parts: one may run ahead of the training, the other is it."""

    collate: Callable[[Ints, np.random.Generator], Batch]
    """Rows to a batch on the CPU. It reads no weights that are being trained, and draws from the
    given generator alone: torch's own belongs to the training thread."""
    loss: Callable[[nn.Module, Any], Tensor]
    """Of a (wrapped) network and a batch on its device."""


@dataclass(frozen=True)
class Splits:
    """Rows of the requests that train and that choose."""

    train: Ints
    validate: Ints


class Trainer:
    """Trains a retriever, then a ranker over what it retrieves.

    Args:
        device: where networks live.
        share: `(rank, number)` of this worker among all; each draws randomness of its own.
    """

    def __init__(
        self,
        examples: Examples,
        splits: Splits,
        *,
        model: ModelConfig,
        serving: ServingConfig,
        train: TrainConfig,
        share: tuple[int, int] = (0, 1),
        device: torch.device | str = "cpu",
    ) -> None:
        torch.manual_seed(train.seed)
        self.examples, self.splits = examples, splits
        self.model, self.serving, self.train = model, serving, train
        self.rank, self.device = share[0], torch.device(device)
        target = model.heads.index(model.target)
        self.target = target
        self.chosen = evaluation.with_target(examples.requests, splits.validate, target)
        if not len(self.chosen) or not len(splits.train):
            raise ValueError(
                f"there are {len(splits.train)} training requests and {len(self.chosen)} to "
                f"validate with a {model.target!r}; move requests.validate_from or test_from"
            )
        towers, ranker = build(examples.catalogue, model)
        self.towers, self.ranker = towers.to(device), ranker.to(device)
        outcomes = examples.requests.pairs(splits.train)[1]
        self.sampler = NegativeSampler(
            outcomes, len(examples.catalogue), model.retriever.num_negatives
        )
        self.progress = Progress()
        self._optimizers: list[torch.optim.Optimizer] = []
        self._resumed: Path | None = None

    def resume(self, folder: Path) -> None:
        """Goes on from a checkpoint that `save` wrote."""
        self.progress = Progress.load(folder / "progress.json")
        for name, net in zip(STAGES, (self.towers, self.ranker), strict=True):
            if (folder / f"{name}.safetensors").is_file():
                load_weights(net, folder / f"{name}.safetensors")
        self._resumed = folder

    def save(self, folder: Path, best: Path) -> None:
        """Writes a checkpoint: weights going on, the best so far (from `best`), all progress."""
        stage = self.progress.stage
        for number, name in enumerate(STAGES[: stage + 1]):
            source = best / f"{name}.safetensors"
            (folder / source.name).write_bytes(source.read_bytes())
            if number == stage:
                save_weights(self._net(number), folder / "current.safetensors")
                save_optimizers(self._optimizers, folder / "optimizers.safetensors")
        self.progress.save(folder / "progress.json")

    def fit(
        self,
        feed: Feed,
        *,
        best: Path,
        on_step: Callable[[str, float, float], None] = lambda name, done, loss: None,
        on_epoch: Callable[[dict[str, float | str]], None] = lambda figures: None,
        wrap: Wrap = lambda net: net,
    ) -> None:
        """Runs what is left of both stages; the best weights end up in the networks and in `best`.

        Args:
            feed: batches of rows out of `splits.train`.
            best: folder of this worker for the best weights so far.
            on_step: called with the stage's name, the share of it done, and the loss.
            on_epoch: called after each validation, when `save` may be.
        """
        configs = (self.train.retriever, self.train.ranker)
        for number in range(self.progress.stage, len(STAGES)):
            self._begin(number, configs[number], best)
            net = wrap(self._net(number))
            work = self.work(number)
            for epoch in range(self.progress.epoch, configs[number].epochs):
                # Before the epoch, not after it: a resumed run may have had its last one already.
                if self.progress.stale >= configs[number].patience:
                    break
                figures = self._epoch(number, epoch, configs[number], net, work, feed, on_step)
                self._judge(number, epoch, figures, best)
                on_epoch(figures)
            load_weights(self._net(number), best / f"{STAGES[number]}.safetensors")
            self.progress.stage, self.progress.epoch = number + 1, 0
            self.progress.best, self.progress.stale = float("-inf"), 0

    def _net(self, stage: int) -> nn.Module:
        return (self.towers, self.ranker)[stage]

    def _begin(self, stage: int, config: StageConfig, best: Path) -> None:
        """Optimizers for a stage, as they were if it was going on already."""
        self._optimizers = optimizers(self._net(stage), config)
        if self._resumed is not None:
            for name in STAGES[: stage + 1]:
                source = self._resumed / f"{name}.safetensors"
                if source.is_file():
                    (best / source.name).write_bytes(source.read_bytes())
            if self.progress.epoch:
                load_weights(self._net(stage), self._resumed / "current.safetensors")
                load_optimizers(self._optimizers, self._resumed / "optimizers.safetensors")
            self._resumed = None

    def work(self, stage: int) -> Work:
        """How a stage makes its batches and what it loses by them.

        The ranker's batches are made with the towers, which it does not train: as they are now.
        """
        if stage == 0:
            return Work(
                collate=lambda rows, generator: retriever_batch(
                    self.examples,
                    rows,
                    target=self.target,
                    sampler=self.sampler,
                    config=self.train,
                    generator=generator,
                ),
                loss=lambda net, batch: net(batch),
            )
        retriever = self.retriever()
        return Work(
            collate=lambda rows, generator: ranker_batch(
                self.examples,
                rows,
                retriever=retriever,
                num_heads=len(self.model.heads),
                config=self.train,
                generator=generator,
            ),
            loss=partial(ranker_loss, listwise_weight=self.model.ranker.listwise_weight),
        )

    def _epoch(
        self,
        stage: int,
        epoch: int,
        config: StageConfig,
        net: nn.Module,
        work: Work,
        feed: Feed,
        on_step: Callable[[str, float, float], None],
    ) -> dict[str, float | str]:
        """One pass over the training rows, then validation."""
        # Randomness depends on the place in the run alone, so a resumed run is the same run.
        generator = np.random.default_rng([self.train.seed, stage, epoch, self.rank])
        torch.manual_seed(int(generator.integers(1 << 31)))
        begin, total, done = time.monotonic(), 0.0, 0
        expected = -(-len(self.splits.train) // config.batch)
        net.train()
        rows = feed(stage, epoch, config.batch)
        with ahead(rows, lambda some: work.collate(some, generator)) as batches:
            for batch in batches:
                share = (epoch + min(done / expected, 1.0)) / config.epochs
                warm(self._optimizers, config, share)
                loss = work.loss(net, batch.to(self.device))
                found = step(net, loss, self._optimizers)
                total, done = total + found, done + 1
                on_step(STAGES[stage], share, found)
        if not done:
            raise ValueError("an epoch without one batch: there are fewer rows than workers")
        seconds = time.monotonic() - begin
        figures = self._validate(stage)
        return {
            "stage": STAGES[stage],
            "epoch": epoch,
            "loss": total / done,
            "seconds": seconds,
            **figures,
        }

    def _validate(self, stage: int) -> dict[str, float | str]:
        retriever = self.retriever()
        if stage == 0:
            top = evaluation.nearest(retriever, self.examples, self.chosen, max(evaluation.CUTS))
            wanted = evaluation.positives(self.examples.requests, self.chosen, self.target)
            found = evaluation.list_metrics(top, wanted)
            return {f"validate_{name}": float(v.mean()) for name, v in found.items()}
        recommender = self.recommender(retriever)
        seen = evaluation.scored(recommender, self.examples, self.chosen)
        wanted = evaluation.positives(self.examples.requests, self.chosen, self.target)
        lists = evaluation.list_metrics(evaluation.slates(seen, self.target), wanted)
        self._fitted = [
            fit_platt(logits, labels)
            for labels, logits, _ in (seen.flat(head) for head in range(len(self.model.heads)))
        ]
        return {f"validate_{name}": float(v.mean()) for name, v in lists.items()}

    def _judge(self, stage: int, epoch: int, figures: dict[str, float | str], best: Path) -> None:
        """Keeps the weights when they are the best so far by NDCG on validation."""
        progress = self.progress
        progress.epoch = epoch + 1
        found = float(figures[f"validate_ndcg@{evaluation.CUTS[0]}"])
        if found > progress.best:
            progress.best, progress.stale = found, 0
            save_weights(self._net(stage), best / f"{STAGES[stage]}.safetensors")
            if stage == 1:
                progress.calibration = [(p.scale, p.bias) for p in self._fitted]
        else:
            progress.stale += 1
        progress.history.append(figures)

    def retriever(self) -> Retriever:
        """Retrieval by the two towers as they are now."""
        return Retriever(
            self.towers,
            catalogue=self.examples.catalogue,
            popularity=self.examples.popularity,
            features=self.model.features,
            config=self.serving.candidates,
        )

    def recommender(self, retriever: Retriever) -> Recommender:
        """The recommender as it is now; without calibration until one is fitted."""
        pairs = self.progress.calibration or [(1.0, 0.0)] * len(self.model.heads)
        return Recommender(
            retriever=retriever,
            ranker=self.ranker,
            calibration=[Platt(scale, bias) for scale, bias in pairs],
            heads=self.model.heads,
            target=self.model.target,
        )
