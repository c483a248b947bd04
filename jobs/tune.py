"""tune: searches values of a document for the best validation, on Ray, several trials at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import console

if TYPE_CHECKING:
    import optuna

    from configs.load import Document
    from jobs.tuning.space import Axis

DRAWN_EVERY = 5
"""Trials between two drawings of the pictures."""
INTERRUPTED = 130
"""The exit code of what Ctrl-C ended."""

Space = Annotated[
    Path | None,
    typer.Option(
        "--space", help="A YAML file in the place of the document's `tune` section: configs/tune/."
    ),
]
Trials = Annotated[
    int | None, typer.Option(help="Trials in all, those of a resumed study included.", min=1)
]
Concurrent = Annotated[
    int | None, typer.Option(help="Trials at once; as many as there are CPUs for.", min=1)
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a study, however it ended.")]
Wandb = Annotated[bool, typer.Option(help="Log each trial to Weights & Biases, in one group.")]


def main(
    config: console.ConfigFile,
    overrides: console.Overrides = None,
    space: Space = None,
    trials: Trials = None,
    concurrent: Concurrent = None,
    resume: Resume = False,
    wandb: Wandb = True,
) -> None:
    """Searches the values that `tune.space` names, by validation ndcg@10; test is never looked at.

    Trials that do badly are stopped early. Ctrl-C or a kill loses only what was under way:
    --resume runs that again and goes on.

    \b
    Reads runs/<name>/prepared/ and writes runs/<name>/tuning/:
      best.yaml     the document with the best values in place; `train` takes it as it is
      pareto/       in its place with two objectives: one document for each point of the front
      trials.csv    all trials        history.png, importance.png, pareto.png
      study.db      the Optuna study  prepared/  what values of `memory` had to have prepared

    \b
    Examples:
      python -m jobs.tune --config configs/online_retail.yaml
      python -m jobs.tune --config mine.yaml --space configs/tune/half_lives.yaml --trials 40
      python -m jobs.tune --config mine.yaml --set train.num_workers=0 --concurrent 2
      python -m jobs.tune --config mine.yaml --set "tune.objectives=[quality, cost]"
      python -m jobs.tune --config mine.yaml --resume --trials 60
      ray job submit --working-dir . -- python -m jobs.tune --config mine.yaml
    With train.num_workers=0 a trial trains in one process of its own: the cheapest way on one
    machine. With workers of Ray Train a trial takes its CPUs, and half a minute to start.
    """  # noqa: D301  # the backspace tells click to keep the lines of a paragraph
    from configs.load import check, read

    options = {"trials": trials, "concurrent": concurrent}
    sets = [*(overrides or [])]
    sets += [f"tune.{name}={value}" for name, value in options.items() if value is not None]
    sections = {"tune": space} if space else {}
    given = read(config, sets, sections=sections)
    document = check(given, str(config), sets, sections=sections)
    try:
        with interruptible(), console.ray_session(num_cpus=max(2, num_cpus())):
            tune(document, given, resume=resume, track=wandb)
    except KeyboardInterrupt:
        again = "the study is whole: the same command with --resume goes on"
        console.err.print(f"interrupted; {again}", style="yellow", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


def num_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, which `ray job stop` sends, ends a search as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tune(
    document: Document, given: Mapping[str, Any], *, resume: bool = False, track: bool = True
) -> optuna.Study:
    """Searches on the Ray that is there and returns the study.

    Args:
        given: what the document says itself, as `configs.load.read` gives it.

    Raises:
        ValueError: when the space does not fit the document, nothing fitting is prepared, there is
            a study already or none to resume, or no trial came to an end with a value.
    """
    import ray

    from jobs.files import alone
    from jobs.preparing.pipeline import quiet
    from jobs.tuning.search import Search
    from jobs.tuning.slots import slots_of
    from jobs.tuning.space import as_it_stands, axes_of
    from jobs.tuning.studies import AS_IT_STANDS, counted, open_study, reclaim
    from jobs.tuning.trials import tidy

    axes = axes_of(document, given)
    slots = slots_of(document, ray.cluster_resources())
    prepared = prepared_for(document)
    quiet()
    folder = document.folder / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / ".lock", f"{folder}: another `jobs.tune` is at work there"):
        study = open_study(folder, document, prepared, resume=resume)
        left = reclaim(study)
        for cut_off in (folder / "trials").glob("*"):
            tidy(cut_off)
        first = as_it_stands(document, axes)
        if not study.get_trials(deepcopy=False) and first is not None:
            # So that the best is never worse than what there is.
            study.enqueue_trial(first, user_attrs={AS_IT_STANDS: True})
        announce(study, document, slots.concurrent, left)
        with console.out.status("starting trials") as status:
            search = Search(
                study,
                axes,
                document,
                given,
                slots=slots,
                track=track,
                on_epoch=lambda letter, goes_on: status.update(
                    f"{search.num_running} under way; trial {letter.trial}: {letter.stage} epoch "
                    f"{letter.epoch + 1}, ndcg@10 {letter.value:.4f}"
                    + ("" if goes_on else ", stopped")
                ),
                on_trial=lambda number: progressed(study, number, axes, document, given),
            )
            search.run()
        conclude(study, axes, document, given, num_counted=len(counted(study)))
    return study


def prepared_for(document: Document) -> str:
    """A digest of the prepared data that trials begin from; empty where each has it prepared.

    Raises:
        ValueError: when it is not there, and no value of the space asks for other prepared data.
    """
    from jobs.prepared import SHAPING, Prepared
    from models.config import digest_of

    shaped = any(path.split(".")[0] in SHAPING for path in document.tune.space)
    try:
        found = Prepared.open(document.folder / "prepared", document)
    except ValueError:
        if shaped:
            return ""
        raise
    return digest_of(found.manifest["generations"])


def announce(study: optuna.Study, document: Document, concurrent: int, left: list[int]) -> None:
    """What is going to happen, in a few lines."""
    from jobs.tuning.studies import counted

    tune, done = document.tune, len(counted(study))
    text = f"{tune.trials} trials, {done} of them done, {concurrent} at once"
    console.out.print(f"study {study.study_name}: {text}", soft_wrap=True)
    if left:
        numbers = ", ".join(map(str, left))
        console.out.print(f"  cut off before, run again: {numbers}", soft_wrap=True)
    if len(tune.objectives) > 1 and tune.pruner.kind != "none":
        text = "two objectives: no trial is stopped early (Optuna prunes by one objective alone)"
        console.out.print(f"  {text}", soft_wrap=True)


def progressed(
    study: optuna.Study,
    number: int,
    axes: list[Axis],
    document: Document,
    given: Mapping[str, Any],
) -> None:
    """A line for a trial that ended, and the files brought up to date."""
    from jobs.tuning.results import best_of, note_of, told_values, write
    from jobs.tuning.studies import counted

    trial = study.get_trials(deepcopy=False)[number]
    value = "  ".join(f"{value:.4f}" for value in trial.values or ())
    best = ", ".join(str(one.number) for one in best_of(study))
    console.out.print(
        f"  trial {number:<4} {trial.state.name.lower():<8} {value:<8}  "
        f"best: {best or '-':<5} {trial.user_attrs.get('seconds', 0.0):7.1f} s  "
        f"{told_values(trial, axes)}  {note_of(trial)}".rstrip(),
        soft_wrap=True,
        markup=False,
    )
    write(study, axes, document, given, pictures=len(counted(study)) % DRAWN_EVERY == 0)


def conclude(
    study: optuna.Study,
    axes: list[Axis],
    document: Document,
    given: Mapping[str, Any],
    *,
    num_counted: int,
) -> None:
    """The files, the table, and where they are.

    Raises:
        ValueError: when no trial has a value, with the first reason.
    """
    from jobs.tuning.results import best_of, write
    from jobs.tuning.studies import REASON

    write(study, axes, document, given, pictures=True)
    best = best_of(study)
    folder = document.folder / "tuning"
    if not best:
        reasons = [t.user_attrs[REASON] for t in study.trials if REASON in t.user_attrs]
        why = f"the first failed: {reasons[0]}" if reasons else "all were stopped: look at pruner"
        raise ValueError(
            f"tune: none of {num_counted} trials came to an end with a value; {why}\n"
            f"{folder / 'trials.csv'} has them all, {folder / 'trials'}/*/error.txt each traceback"
        )
    show(study, axes, document)
    if len(best) > 1 or len(study.directions) > 1:
        console.out.print(f"the front: {folder / 'pareto'}", soft_wrap=True)
        return
    console.out.print(f"best document: {folder / 'best.yaml'}", soft_wrap=True)
    if any(path.split(".")[0] in ("memory", "catalogue") for path in best[0].params):
        text = "it reads memory in another way: run `jobs.prepare` with it before `jobs.train`"
        console.out.print(f"  {text}", soft_wrap=True)


def show(study: optuna.Study, axes: list[Axis], document: Document) -> None:
    """The table at the end: the best trials, and how many there were of each kind."""
    from jobs.tuning.results import best_of, complete, names_of, values_of_row

    best = best_of(study)
    trials = best if len(study.directions) > 1 else complete(study)
    trials = sorted(trials, key=lambda trial: -trial.values[0])[:10]
    states = [trial.state.name.lower() for trial in study.get_trials(deepcopy=False)]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    title = "The front" if len(study.directions) > 1 else "The best trials"
    console.table(
        f"{title} ({counts})",
        ["trial", *names_of(document.tune), *(axis.path for axis in axes)],
        [values_of_row(trial, axes) for trial in trials],
    )


if __name__ == "__main__":
    console.run(main)
