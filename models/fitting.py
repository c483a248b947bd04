"""The training loop: two stages, epochs, validation, the best weights, and a way to go on later.

It knows no Ray: the job hands it a feed of units, a wrapper for networks and callbacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models import arithmetic, blending, evaluation, health, tables
from models.checkpoints import (
    check_seal,
    load_optimizers,
    load_weights,
    save_optimizers,
    save_weights,
    seal,
)
from models.evaluation import Scored
from models.examples import Examples, Ints
from models.inputs import check_item_numbers, check_outcomes, check_user_level
from models.memory import user_feature_names
from models.metrics.retrieval import Positives
from models.model import ModelConfig, Recommender, ServingConfig, build
from models.prefetch import ahead
from models.progress import STAGES, Figures, Progress
from models.ranking.calibration import Platt, fit_platt
from models.retrieval.retrieve import Retriever
from models.retrieval.towers import RetrieverBatch
from models.steps import Sharing, Step, alone, over_workers
from models.threads import threads_of
from models.training import (
    NegativeSampler,
    RankerBatch,
    StageConfig,
    TrainConfig,
    optimizers,
    ranker_batch,
    ranker_loss,
    retriever_batch,
    take,
    warm,
)
from models.warm_start import Origin

Feed = Callable[[int, int, int], Iterator[Ints]]
"""Stage number, epoch, batch size to batches out of `Trainer.units` of that stage: those of all
workers together, the same for each of them."""
Wrap = Callable[[nn.Module], nn.Module]
"""A network to what computes its loss on several workers, such as DDP."""
Batch = RetrieverBatch | RankerBatch
STEPS_BETWEEN_REPORTS = 20


@dataclass(frozen=True)
class Work:
    """What one stage does, in two parts: one may run ahead of the training, the other is it."""

    collate: Callable[[Ints, Step], Batch]
    """The units of all workers to a worker's batch on the CPU. It reads no weights that are being
    trained and draws nothing but of the step: torch's generator belongs to the training thread."""
    loss: Callable[[nn.Module, Any], Tensor]
    """Of a (wrapped) network and a batch on its device: this worker's part of the step's loss."""


@dataclass(frozen=True)
class Splits:
    """Rows of the requests that train and that choose."""

    train: Ints
    validate: Ints


def _untold(*said: object) -> None:
    """For who does not want to know."""


@dataclass
class _Run:
    """What `fit` was given, and what of it is going on."""

    feed: Feed
    best: Path
    on_step: Callable[[str, float, float], object]
    on_epoch: Callable[[Figures], object]
    on_save: Callable[[], object]
    on_health: Callable[[str, Mapping[str, float]], object]
    wrap: Wrap
    gradients: health.Gradients = field(default_factory=health.Gradients)


class Trainer:
    """Trains a retriever, then a ranker over what it retrieves.

    Args:
        device: where networks live.
        share: `(rank, number)` of this worker among all, each of which takes its part of each step.
        origin: weights to begin with; None: fresh ones.

    Raises:
        ValueError: when requests are missing or numbers are none; before anything is trained.
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
        origin: Origin | None = None,
    ) -> None:
        self.rank, self.world = share
        self.device = torch.device(device)
        arithmetic.check(train.precision, compiling=train.compile, device=self.device)
        torch.manual_seed(train.seed)
        self.examples, self.splits = examples, splits
        self.model, self.serving, self.train = model, serving, train
        self.target = model.heads.index(model.target)
        found = evaluation.with_target(examples.requests, splits.validate, self.target)
        self.chosen = evaluation.of_some_users(
            examples.requests, found, at_most=train.max_validate, seed=train.seed
        )
        self._check()
        outcomes = examples.requests.pairs(splits.train)[1]
        self.sampler = NegativeSampler(outcomes, len(examples.catalogue), model.retriever)
        self.threads = threads_of(
            examples.requests,
            splits.train,
            histories=examples.histories,
            spec=model.memory.state,
            length=model.features.history,
        )
        towers, ranker = build(examples.catalogue, model)
        self.sharded = train.shard_tables and self.world > 1
        home = "cpu" if self.sharded else device  # there is room for whole tables
        self.towers, self.ranker = towers.to(home), ranker.to(home)
        met = np.append(examples.places[self.threads.tokens], outcomes)
        counts = np.bincount(met, minlength=len(examples.catalogue))
        for table in (self.towers.item.id, self.ranker.item.id):
            table.admit(counts, examples.catalogue.keys)
        self.towers.item.begin(torch.from_numpy(1 + np.flatnonzero(counts[1:])))
        self.origin = origin
        if origin is not None:
            for name, net in zip(STAGES, (self.towers, self.ranker), strict=True):
                origin.load(net, name, examples.catalogue)
        first = int(examples.requests.as_of_ms[self.chosen].min())
        self.successors = examples.successors(model.retriever.successors, until_ms=first)
        self.progress = Progress()
        self._optimizers: list[torch.optim.Optimizer] = []
        self._resumed: Path | None = None

    def _check(self) -> None:
        if not len(self.chosen) or not len(self.splits.train):
            raise ValueError(
                f"there are {len(self.splits.train)} training requests and {len(self.chosen)} to "
                f"validate with a {self.model.target!r}; move requests.validate_from or test_from"
            )
        requests = self.examples.requests
        rows = {"train": self.splits.train, "validate": self.splits.validate}
        check_outcomes(
            {split: requests.pairs(some)[2] for split, some in rows.items()}, self.model.heads
        )
        check_user_level(requests.long, user_feature_names(self.model.memory))
        check_item_numbers(self.examples.catalogue)

    def units(self, stage: int) -> Ints:
        """What the feed of a stage shuffles: threads, then rows of the training requests."""
        all_ = np.arange(len(self.threads)) if stage == 0 else self.splits.train
        most = self._config(stage).max_units
        if most is None or len(all_) <= most:
            return all_
        drawn = np.random.default_rng([self.train.seed, stage]).choice(len(all_), most, False)
        return all_[np.sort(drawn)]

    @property
    def facts(self) -> dict[str, str]:
        """What a checkpoint is of: it goes on under the same only."""
        return {"model": self.model.digest(), "catalogue": self.examples.catalogue.digest()}

    def resume(self, folder: Path) -> None:
        """Goes on from a checkpoint that `save` wrote, with as many workers as there are now.

        Raises:
            ValueError: when it is damaged, cut short, or of another model or catalogue.
        """
        check_seal(folder, self.facts)
        self.progress = Progress.load(folder / "progress.json")
        for name, net in zip(STAGES, (self.towers, self.ranker), strict=True):
            if (folder / f"{name}.safetensors").is_file():
                load_weights(net, folder / f"{name}.safetensors")
        self._resumed = folder

    def save(self, folder: Path, best: Path) -> None:
        """Writes a checkpoint: weights going on, the best so far (from `best`), all progress.

        With tables in parts (`sharded`) every worker calls, each with a folder of its own: they all
        gather whole tables.
        """
        stage = self.progress.stage
        for name in STAGES[: stage + 1]:
            source = best / f"{name}.safetensors"
            if source.is_file():  # else the stage's first epoch is not over
                (folder / source.name).write_bytes(source.read_bytes())
        save_weights(self._net(stage), folder / "current.safetensors")
        save_optimizers(self._optimizers, folder / "optimizers.safetensors")
        self.progress.save(folder / "progress.json")
        seal(folder, self.facts)

    def fit(
        self,
        feed: Feed,
        *,
        best: Path,
        on_step: Callable[[str, float, float], object] = _untold,
        on_epoch: Callable[[Figures], object] = _untold,
        on_save: Callable[[], object] = _untold,
        on_health: Callable[[str, Mapping[str, float]], object] = _untold,
        wrap: Wrap = lambda net: net,
    ) -> None:
        """Runs what is left of both stages; the best weights end up in the networks and in `best`.

        Every worker makes the same calls at the same places.

        Args:
            best: folder of this worker for the best weights so far.
            on_step: called with the stage's name, the share of it done, and the loss.
            on_epoch: called with the figures of each validation, when `save` may be.
            on_save: called every `train.checkpoint_every` steps, when `save` may be.
            on_health: called every few steps with the stage's name and figures of `models.health`.
        """
        run = _Run(feed, best, on_step, on_epoch, on_save, on_health, wrap)
        for number in range(self.progress.stage, len(STAGES)):
            self._stage(number, run)
            load_weights(self._net(number), best / f"{STAGES[number]}.safetensors")
            if self.sharded:
                tables.join(self._net(number))
                self._net(number).cpu()
            progress = self.progress
            progress.stage, progress.epoch = number + 1, 0
            progress.best, progress.stale = float("-inf"), 0

    def _stage(self, stage: int, run: _Run) -> None:
        """What is left of a stage's epochs."""
        config = self._config(stage)
        self._begin(stage, run.best)
        inner = self._net(stage)
        net = run.wrap(arithmetic.compiled(inner) if self.train.compile else inner)
        work = self.work(stage)
        if self.origin is not None and self.progress.best == float("-inf"):
            # How good the weights are that it begins with: they are kept if none are better.
            given: Figures = {"stage": STAGES[stage], "epoch": -1, "seconds": 0.0}
            self._judge(stage, given | self._validate(stage), run)
        for epoch in range(self.progress.epoch, config.epochs):
            # Before the epoch, not after it: a resumed run may have had its last one already.
            if self.progress.stale >= config.patience:
                break
            figures = self._epoch(stage, epoch, net, work, run)
            self._judge(stage, figures | self._validate(stage), run)

    def _net(self, stage: int) -> nn.Module:
        return (self.towers, self.ranker)[stage]

    def _config(self, stage: int) -> StageConfig:
        return (self.train.retriever, self.train.ranker)[stage]

    def _begin(self, stage: int, best: Path) -> None:
        """Optimizers for a stage, as they were if it was going on already."""
        if self.sharded:
            tables.shard(self._net(stage), rank=self.rank, world=self.world)
            self._net(stage).to(self.device)
        self._optimizers = optimizers(self._net(stage), self._config(stage))
        if self._resumed is not None:
            for name in STAGES[: stage + 1]:
                source = self._resumed / f"{name}.safetensors"
                if source.is_file():
                    (best / source.name).write_bytes(source.read_bytes())
            if self.progress.epoch or self.progress.step:
                load_weights(self._net(stage), self._resumed / "current.safetensors")
                load_optimizers(self._optimizers, self._resumed / "optimizers.safetensors")
            self._resumed = None

    def work(self, stage: int) -> Work:
        """How a stage makes its batches and what it loses by them.

        The ranker's batches are made with the towers, which it does not train: as they are now.
        """
        share: Sharing = partial(over_workers, world=self.world) if self.world > 1 else alone
        if stage == 0:
            return Work(
                collate=lambda units, step: retriever_batch(
                    self.examples,
                    self.threads,
                    units,
                    target=self.target,
                    sampler=self.sampler,
                    config=self.train,
                    step=step,
                ),
                loss=lambda net, batch: net(batch, share),
            )
        # What follows what knows how training requests ended.
        retriever = self.retriever(remembering=False)
        return Work(
            collate=lambda units, step: ranker_batch(
                self.examples,
                units,
                retriever=retriever,
                num_heads=len(self.model.heads),
                config=self.train,
                step=step,
            ),
            loss=partial(ranker_loss, config=self.model.ranker, share=share),
        )

    def _epoch(self, stage: int, epoch: int, net: nn.Module, work: Work, run: _Run) -> Figures:
        """What is left of one pass over a stage's units."""
        progress, begin = self.progress, time.monotonic() - self.progress.seconds
        every = self.train.checkpoint_every
        net.train()
        batches = self._batches(stage, epoch, run.feed)
        with ahead(batches, lambda some: (some[1], work.collate(*some))) as made:
            for step, batch in made:
                loss = self._step(step, batch.to(self.device), net, work, run)
                progress.step, progress.loss = step.number + 1, progress.loss + loss
                progress.seconds = time.monotonic() - begin
                if every and progress.step % every == 0:
                    run.on_save()
        if not progress.step:
            raise ValueError("an epoch without one batch: there are fewer rows than workers")
        return {
            "stage": STAGES[stage],
            "epoch": epoch,
            "loss": progress.loss / progress.step,
            "seconds": time.monotonic() - begin,
        }

    def _batches(self, stage: int, epoch: int, feed: Feed) -> Iterator[tuple[Ints, Step]]:
        """The units of each step that is still to do."""
        share = {"rank": self.rank, "world": self.world}
        for number, units in enumerate(feed(stage, epoch, self._config(stage).batch)):
            # Of a last batch too small for all workers, none takes any.
            if number >= self.progress.step and len(units) >= self.world:
                # Randomness depends on the place in the run alone: a resumed run is the same run.
                yield units, Step(self.train.seed, stage, epoch, number, **share)

    def _step(self, step: Step, batch: Batch, net: nn.Module, work: Work, run: _Run) -> float:
        """One step of training; returns its loss."""
        stage, config = step.stage, self._config(step.stage)
        expected = -(-len(self.units(stage)) // config.batch)
        done = (step.epoch + min(step.number / expected, 1.0)) / config.epochs
        warm(self._optimizers, config, done)
        step.seed_dropout()
        with arithmetic.precise(self.train.precision, self.device):
            loss = work.loss(net, batch)
        taken = take(net, loss, self._optimizers, world=self.world)
        run.on_step(STAGES[stage], done, taken.loss)
        run.gradients.add(taken)
        if len(run.gradients) == STEPS_BETWEEN_REPORTS:
            run.on_health(STAGES[stage], run.gradients.report())
        return taken.loss

    def _validate(self, stage: int) -> Figures:
        retriever = self.retriever()
        wanted = evaluation.positives(self.examples.requests, self.chosen, self.target)
        if stage == 0:
            weight, found = blending.of_retriever(retriever, self.examples, self.chosen, wanted)
            self.towers.follow.fill_(weight)
        else:
            recommender = self.recommender(retriever)
            seen = self._blended(evaluation.scored(recommender, self.examples, self.chosen), wanted)
            found = evaluation.list_metrics(evaluation.slates(seen, self.target), wanted)
            self._fitted = [
                fit_platt(logits, labels)
                for labels, logits, _ in (seen.flat(head) for head in range(len(self.model.heads)))
            ]
        # Workers decide by this: where their last bits differ they must not part ways.
        means = torch.tensor([v.mean() for v in found.values()], device=self.device)
        agreed = over_workers(means.double(), self.world).tolist()
        return {f"validate_{name}": mean for name, mean in zip(found, agreed, strict=True)}

    def _judge(self, stage: int, figures: Figures, run: _Run) -> None:
        """Keeps the weights when they are the best so far by NDCG on validation."""
        progress = self.progress
        progress.epoch, progress.step = int(figures["epoch"]) + 1, 0
        progress.loss = progress.seconds = 0.0
        found = float(figures[f"validate_ndcg@{evaluation.CUTS[0]}"])
        if found > progress.best:
            progress.best, progress.stale = found, 0
            save_weights(self._net(stage), run.best / f"{STAGES[stage]}.safetensors")
            if stage == 1:
                progress.calibration = [(p.scale, p.bias) for p in self._fitted]
        else:
            progress.stale += 1
        progress.history.append(figures)
        if len(run.gradients):
            run.on_health(STAGES[stage], run.gradients.report())
        run.on_health(STAGES[stage], health.tables(self._net(stage), self._optimizers))
        run.on_epoch(figures)

    def _blended(self, seen: Scored, wanted: Positives) -> Scored:
        """The same with as much of what follows what as ranks best; the ranker takes it over."""
        logits, followed = (torch.from_numpy(given) for given in (seen.logits, seen.followed))
        plain = logits[..., self.target] - self.ranker.follow.cpu() * followed
        weight = blending.of_ranker(seen.places, plain, followed, wanted)
        self.ranker.follow.fill_(weight)
        logits[..., self.target] = plain + weight * followed
        return replace(seen, logits=logits.numpy())

    def retriever(self, *, remembering: bool = True) -> Retriever:
        """Retrieval by the two towers as they are now.

        Args:
            remembering: whether with what follows what.
        """
        return Retriever(
            self.towers,
            catalogue=self.examples.catalogue,
            popularity=self.examples.popularity,
            features=self.model.features,
            config=self.serving.candidates,
            successors=self.successors if remembering else None,
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
