"""train: what was cut goes on, many workers train one model, wrong input is told in a line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file

from configs.load import Document
from jobs import console, evaluate, release, train
from jobs.prepared import Prepared
from jobs.trained import description_of
from models.progress import Progress
from tests.jobs import retail

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NAME = "online_retail"
Arguments = Callable[..., list[str]]


def code_of(command: Callable[..., None], *args: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        console.run(command, args)
    return caught.value.code


def lines_of(folder: Path) -> list[tuple[str, int]]:
    """Stage and epoch of each line that a training told."""
    lines = map(json.loads, (folder / "training/lines.jsonl").read_text().splitlines())
    return [(line["stage"], line["epoch"]) for line in lines if line["kind"] == "epoch"]


def told(folder: Path) -> Any:
    return json.loads((folder / "model/model.json").read_text())


def until(done: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    """Waits, but not for ever, and not for a process that has ended."""
    end = time.monotonic() + 300
    while not done():
        assert process is None or process.poll() is None, "it ended by itself"
        assert time.monotonic() < end
        time.sleep(0.02)


def cut_after_a_checkpoint(args: list[str], folder: Path) -> None:
    """Trains in a process of its own on the tests' cluster, and kills it early."""
    address = ray.get_runtime_context().gcs_address
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.train", *args, "--no-wandb"],
        cwd=retail.ROOT,
        env={**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        checkpoints = folder / "training/checkpoints"
        until((checkpoints / "checkpoint_manager_snapshot.json").exists, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # Ray ends the workers of a driver that is gone.
    until(lambda: ray.available_resources().get("CPU", 0) == 2)


def begun(folder: Path) -> list[dict[str, Any]]:
    """Where workers of a training began."""
    lines = map(json.loads, (folder / "training/lines.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "begin"]


def assert_same_model(folder: Path, other: Path) -> None:
    """Bit for bit."""
    for name in ("retriever", "ranker"):
        one, two = (load_file(f / f"model/{name}.safetensors") for f in (folder, other))
        assert one.keys() == two.keys()
        for key in one:
            assert np.array_equal(one[key], two[key]), (name, key)
    assert told(folder)["calibration"] == told(other)["calibration"]


def test_a_training_whose_driver_was_killed_goes_on(
    trained: Document, fresh: Arguments, tmp_path: Path
):
    folder = tmp_path / NAME
    cut_after_a_checkpoint(fresh("train.checkpoint_every=2"), folder)
    assert not (folder / "model").exists()
    before = lines_of(folder)
    assert before == retail.EPOCHS[: len(before)]
    run_id = json.loads((folder / "training/training.json").read_text())["run_id"]
    document = retail.document(Path(trained.source.path), tmp_path)
    history = train.train(document, resume=True, track=False)
    after = lines_of(folder)[len(before) :]
    # It went on where the checkpoint was, at most one epoch before what was told last.
    assert after
    assert after == retail.EPOCHS[-len(after) :]
    again = begun(folder)[-1]
    assert (again["epoch"], again["step"]) != (0, 0)
    assert [(figures["stage"], figures["epoch"]) for figures in history] == retail.EPOCHS
    assert json.loads((folder / "training/training.json").read_text())["run_id"] == run_id
    assert not (folder / "wandb").exists(), "neither wanted W&B"
    assert_same_model(folder, trained.folder)


def kill_within_an_epoch(folder: Path, killed: list[int]) -> None:
    """Kills the worker once it is well into the ranker's first epoch."""
    path = folder / "training/lines.jsonl"
    until(lambda: path.is_file() and '"kind": "step", "stage": "ranker"' in path.read_text())
    os.kill(begun(folder)[0]["pid"], signal.SIGKILL)
    killed.append(begun(folder)[0]["pid"])


def test_a_training_whose_worker_was_killed_goes_on_within_the_epoch(
    trained: Document, fresh: Arguments, lines: Path, tmp_path: Path
):
    folder, killed = tmp_path / NAME, []
    killer = threading.Thread(target=kill_within_an_epoch, args=(folder, killed), daemon=True)
    killer.start()
    document = retail.document(lines, tmp_path, "train.checkpoint_every=4")
    train.train(document, track=False)
    first, second = begun(folder)
    assert killed == [first["pid"]] != [second["pid"]]
    # Which checkpoint is the newest is a matter of how fast they are uploaded.
    assert (second["stage"], second["epoch"], second["step"]) != ("retriever", 0, 0)
    assert second["step"] % 4 == 0
    assert_same_model(folder, trained.folder)


def test_two_workers_train_one_model(fresh: Arguments, tmp_path: Path):
    sets = ("train.num_workers=2", "train.cpus_per_worker=0.5")
    short = ("train.retriever={epochs: 1, batch: 64}", "train.ranker={epochs: 1, batch: 32}")
    assert code_of(train.main, *fresh(*sets, *short), "--no-wandb") == 0
    assert lines_of(tmp_path / NAME) == [("retriever", 0), ("ranker", 0)], "only one worker tells"
    for figures in told(tmp_path / NAME)["history"]:
        numbers = [value for key, value in figures.items() if key != "stage"]
        assert np.isfinite(numbers).all()
        assert figures["validate_ndcg@10"] > 0
    assert np.isfinite(told(tmp_path / NAME)["calibration"]).all()
    assert not (tmp_path / NAME / "wandb").exists()


def test_no_worker_trains_here_and_is_resumed_too(
    trained: Document, fresh: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """`train.num_workers=0`: the same training without a process of its own."""
    args = fresh("train.num_workers=0")
    assert code_of(train.main, *args, "--no-wandb") == 0
    given, folder = told(trained.folder), tmp_path / NAME
    expected = [{**figures, "seconds": 0.0} for figures in given["history"]]
    assert [{**figures, "seconds": 0.0} for figures in told(folder)["history"]] == expected
    # As if it had been cut after the last epoch: nothing is left to do, and the model is there.
    shutil.rmtree(folder / "model")
    assert code_of(train.main, *args, "--resume", "--no-wandb") == 0
    assert lines_of(folder) == retail.EPOCHS
    assert told(folder)["calibration"] == given["calibration"]
    last = folder / "training/last"
    assert Progress.load(last / "progress.json").epoch == 2
    # A checkpoint that was cut short says so, and what to do.
    half = (last / "current.safetensors").read_bytes()[:5000]
    (last / "current.safetensors").write_bytes(half)
    said = refused(capfd, train.main, [*args, "--resume", "--no-wandb"])
    assert "current.safetensors is damaged, its hash differs; begin the training again" in said


def test_a_training_may_begin_with_the_weights_of_a_run(
    trained: Document, fresh: Arguments, tmp_path: Path
):
    start = (f"train.start_from={trained.folder}", "train.num_workers=0")
    assert code_of(train.main, *fresh(*start), "--no-wandb") == 0
    for stage in ("retriever", "ranker"):
        before, after = (
            [figures for figures in told(folder)["history"] if figures["stage"] == stage]
            for folder in (trained.folder, tmp_path / NAME)
        )
        kept = max(figures["validate_ndcg@10"] for figures in before)
        assert [figures["epoch"] for figures in after] == [-1, 0, 1]
        # Not lower: the epochs were told before the retriever was blended with what follows what,
        # and the ranker ranks what a retriever finds that has learned more.
        assert after[0]["validate_ndcg@10"] >= kept


def refused(
    capfd: pytest.CaptureFixture[str], command: Callable[..., None], args: list[str]
) -> str:
    """What a command says that exits with code 2."""
    assert code_of(command, *args) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    return err


def test_more_workers_than_cpus_are_refused(
    fresh: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    kept = tmp_path / NAME / "training/checkpoints"
    kept.mkdir(parents=True)
    said = refused(capfd, train.main, fresh("train.num_workers=9"))
    assert "9 workers of 1 CPUs need 9, Ray has 2; lower train.num_workers" in said
    assert kept.is_dir(), "an earlier training is still there"


def test_what_is_not_prepared_or_otherwise_is_refused(
    fresh: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    said = refused(capfd, train.main, fresh("memory.view.fast=1d", "requests.warmup=2011-02-01"))
    assert "was prepared under another configuration of memory, requests: run `python" in said
    said = refused(capfd, train.main, fresh("name=another"))
    assert "another/prepared is not there: run `python -m jobs.prepare" in said
    said = refused(capfd, train.main, [*fresh(), "--resume"])
    assert "there is no training to resume" in said
    for job in (evaluate, release):
        said = refused(capfd, job.main, fresh())
        assert "model.json is not there: run `python -m jobs.train" in said


def test_a_training_is_resumed_only_as_it_was_begun(
    fresh: Arguments, lines: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    document = retail.document(lines, tmp_path)
    prepared = Prepared.open(tmp_path / NAME / "prepared", document)
    folder = tmp_path / NAME / "training"
    train.begin(folder, document, prepared, resume=False)
    for sets, changed in (
        (["train.seed=2", "candidates.fresh=4"], "candidates, train"),
        (["ranker.width=4"], "ranker"),
    ):
        said = refused(capfd, train.main, [*fresh(*sets), "--resume"])
        assert f"was begun under another configuration of {changed}; restore it, or leave" in said
    # How it is run may change: the workers, and how often it writes a checkpoint.
    sets = ("train.num_workers=2", "train.checkpoint_every=9")
    other = retail.document(lines, tmp_path, *sets)
    same = train.begin(folder, other, prepared, resume=True)
    assert same == train.begin(folder, document, prepared, resume=True)
    newer = Prepared(prepared.folder, {**prepared.manifest, "num_parts": 99})
    with pytest.raises(ValueError, match="another configuration of prepared data; restore it"):
        train.begin(folder, document, newer, resume=True)
    assert same != train.begin(folder, document, prepared, resume=False)


def test_what_a_worker_finds_wrong_is_told_in_a_line(
    fresh: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    steep = fresh("train.retriever.learning_rate=1e30", "train.max_failures=0")
    said = refused(capfd, train.main, [*steep, "--no-wandb"])
    assert said.startswith("error: the loss is nan: lower train.*.learning_rate")
    assert not (tmp_path / NAME / "model").exists()


def test_weights_of_other_splits_or_sizes_are_not_used(trained: Document, lines: Path):
    runs = Path(trained.runs)
    assert description_of(trained)["digest"] == trained.model.digest()
    later = retail.document(lines, runs, "requests.test_from=2011-11-20")
    with pytest.raises(ValueError, match="under another configuration of requests: train again"):
        description_of(later)
    wider = retail.document(lines, runs, "ranker.width=16")
    with pytest.raises(ValueError, match=r"the configuration has [0-9a-f]{16}: train again"):
        description_of(wider)
    # How weights are used may change.
    free = retail.document(lines, runs, "candidates.fresh=9", "evaluate.seed=2", "train.seed=9")
    assert description_of(free) == description_of(trained)
