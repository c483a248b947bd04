"""tune: trials are pruned, fail, are cut off and go on; what is best is a document for `train`."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
import yaml
from optuna.trial import FrozenTrial, TrialState

from configs.load import load
from jobs import console, train, tune
from jobs.tuning.results import best_of
from jobs.tuning.studies import AGAIN, INTERRUPTED, REASON
from tests.jobs import retail

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NAME = "online_retail"
Arguments = Callable[..., list[str]]
HERE = ("train.num_workers=0",)
"""A trial is one process."""
RATES = {"choices": [0.01, 0.02]}
DONE = {TrialState.COMPLETE, TrialState.PRUNED}


def searching(space: dict[str, Any], **tune: Any) -> str:
    """An override that has the retriever alone searched, at random."""
    section = {"space": space, "stage": "retriever", "sampler": {"kind": "random"}, **tune}
    return f"tune={json.dumps(section)}"


def code_of(*args: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        console.run(tune.main, args)
    return caught.value.code


def trials_of(folder: Path) -> list[FrozenTrial]:
    """All trials of the study in a run's folder."""
    storage = f"sqlite:///{folder / 'tuning/study.db'}"
    return optuna.load_study(study_name=None, storage=storage).get_trials(deepcopy=False)


def epochs_of(folder: Path, number: int) -> list[tuple[str, int]]:
    """Stage and epoch of each line that a trial's training told."""
    path = folder / f"tuning/trials/{NAME}-{number:04}/training/lines.jsonl"
    lines = map(json.loads, path.read_text().splitlines())
    return [(line["stage"], line["epoch"]) for line in lines if line["kind"] == "epoch"]


def training(folder: Path, number: int) -> Path:
    """A file that is there as soon as a trial trains."""
    return folder / f"tuning/trials/{NAME}-{number:04}/training/training.json"


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tuning/study.json").read_text())
    return found


def test_trials_that_do_badly_are_stopped_and_the_best_is_a_document(
    fresh: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    # No epoch reaches an ndcg of 1, and the first one is free: trials of one epoch come to their
    # end, all others are stopped after two.
    space = {"train.retriever.epochs": {"choices": [1, 2, 3]}, "train.ranker.learning_rate": RATES}
    pruner = {"kind": "threshold", "lower": 1.0, "warmup": 1}
    args = fresh(*HERE, searching(space, trials=6, pruner=pruner))
    assert code_of(*args) == 0
    folder = tmp_path / NAME
    trials = trials_of(folder)
    assert len(trials) == 6
    assert {trial.state for trial in trials} == DONE
    for trial in trials:
        epochs = trial.params["train.retriever.epochs"]
        assert trial.state is (TrialState.COMPLETE if epochs == 1 else TrialState.PRUNED)
        assert epochs_of(folder, trial.number) == [("retriever", n) for n in range(min(epochs, 2))]
        assert list(trial.intermediate_values) == list(range(1, min(epochs, 2) + 1))
    # The first one is the document as it stands, with its two epochs.
    assert trials[0].params == {"train.retriever.epochs": 2, "train.ranker.learning_rate": 0.01}
    out = capfd.readouterr().out
    assert "trial 0    pruned" in out
    assert "stopped after retriever epoch 2; the document as it stands" in out
    wholes = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    best = max(wholes, key=lambda trial: trial.value)
    path = folder / "tuning/best.yaml"
    found = load(path)
    expected = load(
        retail.CONFIG,
        [
            *(text.removeprefix("--set=") for text in args[2:]),
            "train.retriever.epochs=1",
            f"train.ranker.learning_rate={best.params['train.ranker.learning_rate']}",
        ],
    )
    assert found == expected
    assert f"trial {best.number}: retriever ndcg@10 {best.value:.4f}" in path.read_text()
    rows = list(csv.DictReader((folder / "tuning/trials.csv").open()))
    assert [row["state"] for row in rows] == [trial.state.name for trial in trials]
    assert float(rows[best.number]["retriever ndcg@10"]) == best.value
    for name in ("history.png", "importance.png"):
        assert (folder / "tuning" / name).read_bytes().startswith(b"\x89PNG")
    # A run of W&B for each trial, all in the study's group; no weights are left behind.
    group = told(folder)["name"].encode()
    runs = list((folder / "tuning/trials").glob("*/wandb/offline-run-*/run-*.wandb"))
    assert len(runs) == 6
    assert all(group in run.read_bytes() for run in runs)
    assert not list((folder / "tuning").rglob("*.safetensors"))
    # `train` takes it as it is.
    history = train.train(found, track=False)
    assert [figures["stage"] for figures in history] == ["retriever", "ranker", "ranker"]
    assert history[0]["validate_ndcg@10"] == best.value


@pytest.mark.slow
def test_all_workers_of_a_trial_stop_at_once(fresh: Arguments, tmp_path: Path):
    sets = ("train.num_workers=2", "train.cpus_per_worker=0.5")
    search = searching(
        {"train.ranker.learning_rate": RATES},
        stage="ranker",
        trials=1,
        pruner={"kind": "threshold", "lower": 1.0, "warmup": 2},
    )
    args = [*fresh(*sets, search), "--no-wandb"]
    assert code_of(*args) == 2, "it did not come to its end"
    folder = tmp_path / NAME
    (trial,) = trials_of(folder)
    assert trial.state is TrialState.PRUNED
    assert list(trial.intermediate_values) == [1, 2, 3]
    assert epochs_of(folder, 0) == retail.EPOCHS[:3]
    assert not (folder / "tuning/best.yaml").exists()
    assert not list(folder.rglob("wandb"))


def until(done: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    """Waits, but not for ever, and not for a process that has ended."""
    end = time.monotonic() + 300
    while not done():
        assert process is None or process.poll() is None, "it ended by itself"
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def once(begun: Path, act: Callable[[], object]) -> Iterator[None]:
    """Acts beside the block as soon as a file is there."""

    def wait() -> None:
        until(begun.exists)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


def killed(args: list[str], begun: Path) -> None:
    """Searches in a process of its own on the tests' cluster; killed once a file is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.tune", *args],
        cwd=retail.ROOT,
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(begun.exists, process)
    finally:
        process.kill()
        process.wait()
    until(lambda: ray.available_resources().get("CPU", 0) == 2)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C reaches Python, though a shell that starts the tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_a_search_that_was_cut_off_goes_on(fresh: Arguments, tmp_path: Path):
    folder = tmp_path / NAME
    space = {"train.retriever.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    search = searching(space, trials=4, pruner={"kind": "none"})
    epochs = "train.retriever={epochs: 30, batch: 64, patience: 30, learning_rate: 0.01}"
    args = [*fresh(*HERE, epochs, search), "--concurrent=1", "--no-wandb"]

    # Ctrl-C in the first trial, told as such; then a kill in the next.
    with once(training(folder, 0), lambda: os.kill(os.getpid(), signal.SIGINT)):
        assert code_of(*args) == 130
    (first, queued) = trials_of(folder)
    assert (first.state, queued.state) == (TrialState.FAIL, TrialState.WAITING)
    assert first.user_attrs[INTERRUPTED]
    killed([*args, "--resume"], training(folder, 1))
    assert [trial.state for trial in trials_of(folder)] == [TrialState.FAIL, TrialState.RUNNING]

    name = told(folder)["name"]
    assert code_of(*args, "--resume") == 0
    assert told(folder)["name"] == name
    trials = trials_of(folder)
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2 + [TrialState.COMPLETE] * 4
    assert [trial.user_attrs.get(AGAIN) for trial in trials[:4]] == [None, 0, 1, None]
    # What was cut off is run again with its values, and what comes after is something else.
    assert trials[0].params == trials[1].params == trials[2].params
    values = [trial.params["train.retriever.learning_rate"] for trial in trials[2:]]
    assert len(set(values)) == 4
    assert load(folder / "tuning/best.yaml").train.retriever.learning_rate in values

    # More trials of the same study; of another one it says what differs.
    assert code_of(*args, "--resume", "--trials=5") == 0
    assert [trial.state for trial in trials_of(folder)[2:]] == [TrialState.COMPLETE] * 5


def test_a_study_is_resumed_only_as_it_was_begun(
    fresh: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    search = searching({"train.retriever.learning_rate": RATES}, trials=1)
    args = fresh(*HERE, search, "train.retriever={epochs: 1, batch: 64}")
    assert code_of(*args, "--resume") == 2
    assert "there is no study to resume; leave --resume out" in capfd.readouterr().err
    assert code_of(*args, "--no-wandb") == 0
    assert code_of(*args) == 2
    assert "holds a study already: --resume goes on with it" in capfd.readouterr().err
    for change in ("retriever.dropout=0.3", searching({"retriever.dropout": RATES})):
        assert code_of(*args, f"--set={change}", "--resume") == 2
        said = capfd.readouterr().err
        assert "was begun under another" in said
        assert ("retriever" if "tune" not in change else "tune.space") in said
    for change in ("train.cpus_per_worker=0.5", "evaluate.seed=4"):
        assert code_of(*args, f"--set={change}", "--resume") == 0


def test_a_trial_that_fails_is_told_and_the_search_goes_on(
    fresh: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    space = {
        "train.retriever.learning_rate": {"choices": [0.01, 1e30]},
        "retriever.dropout": {"low": 0.0, "high": 0.5},
    }
    args = fresh(*HERE, searching(space, trials=5), "train.retriever={epochs: 1, batch: 64}")
    args += ["--concurrent=1"]
    with once(training(tmp_path / NAME, 0), kill_trials):
        assert code_of(*args, "--no-wandb") == 0
    trials = trials_of(tmp_path / NAME)
    assert "WorkerCrashedError" in trials[0].user_attrs[REASON]
    assert len(trials) == 5
    for trial in trials[1:]:
        failed = trial.params["train.retriever.learning_rate"] == 1e30
        assert trial.state is (TrialState.FAIL if failed else TrialState.COMPLETE)
        if failed:
            assert trial.user_attrs[REASON].startswith("the loss is nan: lower train.*.learning")
    assert {trial.state for trial in trials[1:]} == {TrialState.FAIL, TrialState.COMPLETE}
    assert "the loss is nan" in capfd.readouterr().out
    (error, *_) = sorted((tmp_path / NAME / "tuning/trials").glob("*/error.txt"))
    assert "WorkerCrashedError" in error.read_text()


def kill_trials() -> None:
    """Kills the processes that run trials."""
    for process in map(Path, descendants(os.getpid())):
        if b"run_trial" in (process / "cmdline").read_bytes():
            os.kill(int(process.name), signal.SIGKILL)


def descendants(process: int) -> list[str]:
    """Folders in /proc of all processes below one."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [*(f"/proc/{c}" for c in children), *(d for c in children for d in descendants(int(c)))]


def test_a_search_without_a_value_fails_with_the_first_reason(
    fresh: Arguments, capfd: pytest.CaptureFixture[str]
):
    space = {"train.retriever.learning_rate": {"choices": [1e30]}}
    args = fresh(*HERE, searching(space, trials=99), "train.retriever={epochs: 1, batch: 64}")
    assert code_of(*args, "--no-wandb") == 2
    said = capfd.readouterr().err
    assert said.startswith("error: tune: none of ")
    assert "came to an end with a value; the first failed: the loss is nan" in said
    assert int(said.split("none of ")[1].split()[0]) < 10, "it does not try all of them"


def test_readings_of_memory_are_prepared_once_each(fresh: Arguments, tmp_path: Path):
    space = {
        "memory.view.half_lives.0": {"choices": ["1d", "36h"]},
        "retriever.dropout": {"low": 0, "high": 0.5},
    }
    search = searching(space, trials=4, sampler={"kind": "random", "seed": 2})
    args = fresh(*HERE, search, "train.retriever={epochs: 1, batch: 64}")
    assert code_of(*args, "--no-wandb") == 0
    folder = tmp_path / NAME
    trials = trials_of(folder)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    seen = {trial.params["memory.view.half_lives.0"] for trial in trials}
    assert seen == {"1d", "36h"}
    (made,) = (folder / "tuning/prepared").iterdir()
    for trial in trials:
        own = folder / f"tuning/trials/{NAME}-{trial.number:04}/prepared"
        is_new = trial.params["memory.view.half_lives.0"] == "36h"
        assert own.resolve() == (made / "prepared" if is_new else folder / "prepared").resolve()
    (best,) = best_of(
        optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'tuning/study.db'}")
    )
    half_lives = yaml.safe_load((folder / "tuning/best.yaml").read_text())["memory"]["view"]
    assert half_lives["half_lives"][0] == best.params["memory.view.half_lives.0"]


def test_two_objectives_give_a_front_of_documents(
    fresh: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    space = {"retriever.width": {"choices": [4, 8, 16]}, "candidates.total": {"choices": [40, 60]}}
    pruner = {"kind": "threshold", "lower": 1.0, "warmup": 0}
    search = searching(space, trials=4, objectives=["quality", "cost"], pruner=pruner)
    args = fresh(*HERE, search, "train.retriever={epochs: 1, batch: 64}")
    assert code_of(*args, "--no-wandb") == 0
    assert "two objectives: no trial is stopped early" in capfd.readouterr().out
    folder = tmp_path / NAME
    trials = trials_of(folder)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    for trial in trials:
        parts = trial.user_attrs["multiply_adds"] + trial.user_attrs["weight_bytes"]
        assert trial.values[1] == parts / 1e6
    names = {path.name for path in (folder / "tuning/pareto").iterdir()}
    front = [
        trial
        for trial in trials
        if not any(
            other.values != trial.values
            and other.values[0] >= trial.values[0]
            and other.values[1] <= trial.values[1]
            for other in trials
        )
    ]
    for trial in front:
        twins = [t for t in trials if t.values == trial.values]
        assert any(f"trial-{twin.number:04}.yaml" in names for twin in twins)
    assert len(names) == len({tuple(trial.values) for trial in front})
    for name in names:
        point = load(folder / "tuning/pareto" / name)
        assert point.retriever.width == trials[int(name[6:10])].params["retriever.width"]
    assert not (folder / "tuning/best.yaml").exists()
    assert (folder / "tuning/pareto.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_searched_is_refused_before_the_first_trial(
    fresh: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    space = searching({"retriever.width": {"choices": [4, 8]}})
    cases = [
        (fresh(space, "name=another"), "another/prepared is not there: run `python -m jobs.prep"),
        (
            retail.arguments(tmp_path / "lines", tmp_path, space, "train.num_workers=3"),
            r"1 trial(s) at once, each 3 workers with 3 CPU(s) in all, need 3; Ray has 2: lower",
        ),
        (
            [*retail.arguments(tmp_path / "lines", tmp_path, space, *HERE), "--concurrent=3"],
            "3 trial(s) at once, each one process with 1 CPU(s) in all, need 3; Ray has 2",
        ),
        (
            retail.arguments(
                tmp_path / "lines", tmp_path, searching({"retriever.widht": {"choices": [4]}})
            ),
            "error: tune.space.retriever.widht: retriever.widht: unknown key; did you mean 'width'",
        ),
    ]
    for args, expected in cases:
        assert code_of(*args) == 2
        assert expected in capfd.readouterr().err
    assert not (tmp_path / NAME / "tuning").exists()


def test_a_space_may_stand_in_a_file_of_its_own(
    fresh: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    path = tmp_path / "space.yaml"
    path.write_text("space: {retriever.width: {choices: [4], low: 2}}\ntrials: 1\n")
    assert code_of(*fresh(), f"--space={path}") == 2
    said = capfd.readouterr().err
    assert f"{path}: tune.space.retriever.width: give low and high, or choices" in said
