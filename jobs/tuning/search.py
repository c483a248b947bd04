"""The search: one loop that asks the study, runs trials on Ray, and tells the study what came."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.trial import TrialState
from ray.exceptions import RayError

from configs.load import Document, check
from jobs.tuning.desk import Desk, Letter
from jobs.tuning.faults import reason_of, text_of_fault
from jobs.tuning.slots import Slots
from jobs.tuning.space import Axis, draw, placed
from jobs.tuning.studies import NOTE, counted, fail, reclaim
from jobs.tuning.trials import (
    QUALITY,
    Outcome,
    digest_of_prepared,
    is_prepared,
    run_prepare,
    run_trial,
    tidy,
)
from jobs.watching import NAMESPACE, Watch
from models.progress import STAGES

HOPELESS = 5
"""So many failures before anything else end a search: it is hardly the values then."""


@dataclass
class Job:
    """A trial under way."""

    trial: optuna.Trial
    document: Document
    began: float = field(default_factory=time.monotonic)
    stopped: str | None = None
    """Where it was told to stop."""


class Search:
    """Runs what is left of a study.

    Args:
        given: what the document says itself.
        track: whether trials log to W&B.
        on_epoch: called with each letter that has been answered, and whether its trial goes on.
        on_trial: called after each trial with its number.
    """

    def __init__(
        self,
        study: optuna.Study,
        axes: list[Axis],
        document: Document,
        given: Mapping[str, Any],
        *,
        slots: Slots,
        track: bool,
        on_epoch: Callable[[Letter, bool], None] = lambda letter, goes_on: None,
        on_trial: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._study, self._axes, self._slots, self._track = study, axes, slots, track
        self._document, self._given = document, given
        self._on_epoch, self._on_trial = on_epoch, on_trial
        self._folder = (document.folder / "tuning").resolve()
        self._name = f"desk-{uuid.uuid4().hex[:8]}"
        self._desk: Any = (
            ray.remote(num_cpus=0)(Desk).options(name=self._name, namespace=NAMESPACE).remote()
        )
        self._own = is_prepared(document)
        self._jobs: dict[int, Job] = {}
        self._trainings: dict[ray.ObjectRef, int] = {}
        self._preparing: dict[ray.ObjectRef, str] = {}
        self._waiting: dict[str, list[int]] = {}
        self._num_failed = self._num_others = 0

    @property
    def num_running(self) -> int:
        """Trials under way."""
        return len(self._jobs)

    def run(self) -> None:
        """Returns when all trials have come to an end, however.

        When it is interrupted, trials under way are stopped and left to be taken up again.
        """
        letters = self._desk.take.remote()
        try:
            self._fill()
            while self._jobs:
                refs = [*self._trainings, *self._preparing, letters]
                (done,), _ = ray.wait(refs, num_returns=1)
                if done == letters:
                    for letter in ray.get(letters):
                        self._judge(letter)
                    letters = self._desk.take.remote()
                elif done in self._preparing:
                    self._prepared(done)
                else:
                    self._ended(self._trainings.pop(done), done)
                self._fill()
        finally:
            for ref in (*self._trainings, *self._preparing):
                ray.cancel(ref, force=True)
            reclaim(self._study)
            ray.kill(self._desk)

    def _fill(self) -> None:
        """Begins trials while there is room for them and some are left."""
        while len(self._jobs) < self._slots.concurrent:
            hopeless = self._num_failed >= HOPELESS and not self._num_others
            num = len(counted(self._study)) + len(self._jobs)
            if hopeless or num >= self._document.tune.trials:
                return
            self._begin()

    def _begin(self) -> None:
        trial = self._study.ask()
        values = draw(trial, self._axes)
        try:
            document = self._document_of(trial.number, values)
        except ValueError as error:  # values that are fine one by one may not fit together
            self._fail(trial, str(error))
            return
        self._jobs[trial.number] = Job(trial, document)
        self._place(trial.number, document)

    def _document_of(self, number: int, values: Mapping[str, Any]) -> Document:
        """A trial's own document: its values, and a folder of its own for what it writes."""
        # A trial that fails once will fail again: values differ more than machines do.
        own = {**values, "train.max_failures": 0}
        made = placed(self._given, self._document, own)
        made |= {
            "name": f"{self._document.name}-{number:04}",
            "runs": str(self._folder / "trials"),
        }
        made.pop("tune", None)
        return check(made, f"trial {number}")

    def _place(self, number: int, document: Document) -> None:
        """Trains on what is prepared already, or has it prepared first: once for each digest."""
        digest = digest_of_prepared(document)
        if self._own and digest == digest_of_prepared(self._document):
            self._train(number, self._folder.parent / "prepared")
            return
        update = {"runs": str(self._folder / "prepared"), "name": digest}
        shared = document.model_copy(update=update)
        if is_prepared(shared):
            self._train(number, shared.folder / "prepared")
        elif digest in self._waiting:
            self._waiting[digest].append(number)
        else:
            self._waiting[digest] = [number]
            # Its own tasks need CPUs, and those of this trial are free meanwhile.
            task = ray.remote(num_cpus=0, max_retries=0)(run_prepare)
            self._preparing[task.remote(shared)] = digest

    def _prepared(self, ref: ray.ObjectRef) -> None:
        """What some trials waited for is there, or cannot be."""
        digest = self._preparing.pop(ref)
        numbers = self._waiting.pop(digest)
        try:
            ray.get(ref)
        except RayError as error:
            for number in numbers:
                self._failed(number, error)
            return
        for number in numbers:
            self._train(number, self._folder / "prepared" / digest / "prepared")

    def _train(self, number: int, prepared: Path) -> None:
        tune = self._document.tune
        watch = Watch(
            desk=self._name,
            trial=number,
            num_stages=STAGES.index(tune.stage) + 1,
            group=self._study.study_name,
        )
        task = ray.remote(max_retries=0, **self._slots.task)(run_trial)
        ref = task.remote(
            self._jobs[number].document,
            str(prepared),
            watch,
            track=self._track,
            costs="cost" in tune.objectives,
        )
        self._trainings[ref] = number

    def _judge(self, letter: Letter) -> None:
        """Answers a trial that waits after an epoch."""
        job, goes_on = self._jobs[letter.trial], True
        if self._document.tune.is_pruned:
            job.trial.report(letter.value, self._step(letter))
            goes_on = not job.trial.should_prune()
        if not goes_on:
            job.stopped = f"stopped after {letter.stage} epoch {letter.epoch + 1}"
        self._desk.answer.remote(letter.trial, goes_on)
        self._on_epoch(letter, goes_on)

    def _step(self, letter: Letter) -> int:
        """Counts epochs from 1 on, those of the ranker after as many as a retriever can have.

        So one step is the same epoch of the same stage in all trials.
        """
        if letter.stage == STAGES[0]:
            return letter.epoch + 1
        space = self._document.tune.space.get("train.retriever.epochs")
        most = self._document.train.retriever.epochs
        if space is not None:
            most = max(int(v) for v in (*(space.choices or ()), space.high or 0, most))
        return most + letter.epoch + 1

    def _ended(self, number: int, ref: ray.ObjectRef) -> None:
        """Tells the study what came of a trial."""
        try:
            outcome: Outcome = ray.get(ref)
        except RayError as error:
            self._failed(number, error)
            return
        job = self._over(number)
        self._num_others += 1
        if job.stopped is not None:
            job.trial.set_user_attr(NOTE, job.stopped)
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            best = outcome.best(self._document.tune.stage)
            values = [float(best[QUALITY])]
            if outcome.cost is not None:
                values.append(outcome.cost.total)
                for name, part in vars(outcome.cost).items():
                    job.trial.set_user_attr(name, part)
            self._study.tell(number, values)
        self._on_trial(number)

    def _failed(self, number: int, error: RayError) -> None:
        """A trial that fails is told as such, with its reason; the search goes on."""
        job = self._over(number)
        job.document.folder.mkdir(parents=True, exist_ok=True)
        (job.document.folder / "error.txt").write_text(text_of_fault(error))
        self._fail(job.trial, reason_of(error))

    def _fail(self, trial: optuna.Trial, reason: str) -> None:
        self._num_failed += 1
        fail(self._study, trial, reason)
        self._on_trial(trial.number)

    def _over(self, number: int) -> Job:
        """A trial that runs no more."""
        job = self._jobs.pop(number)
        tidy(job.document.folder)
        job.trial.set_user_attr("seconds", round(time.monotonic() - job.began, 1))
        return job
