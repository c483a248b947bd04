"""The feed of a training: the same batches for any number of workers, every unit once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.feeding import in_order, pointers, shard
from models.progress import STAGES

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PLACES = ((0, 0), (0, 1), (1, 0))
"""Stages and epochs, in the order that a training goes through them."""


def read(settings: dict[str, Any]) -> None:
    """A worker that writes down what it is given."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    for stage, epoch in settings["places"]:
        batches = list(shard(stage, epoch, settings["batch"], seed=3))
        path = Path(settings["folder"]) / f"{rank}-{stage}-{epoch}.npy"
        np.save(path, np.concatenate(batches))
        assert {len(batch) for batch in batches[:-1]} == {settings["batch"]}


def given(folder: Path, rows: np.ndarray, *, workers: int, batch: int, places: Any = PLACES) -> Any:
    """Worker, stage and epoch to the units of a small training, in order."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    folder.mkdir()
    TorchTrainer(
        read,
        train_loop_config={"folder": str(folder), "batch": batch, "places": places},
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        datasets={stage: pointers(rows, seed=3) for stage in STAGES},
        dataset_config=in_order(),
        run_config=RunConfig(name="run", storage_path=str(folder / "run")),
    ).fit()
    return {
        (rank, *place): np.load(folder / f"{rank}-{place[0]}-{place[1]}.npy")
        for rank in range(workers)
        for place in places
    }


def test_every_worker_knows_all_batches_and_an_epoch_can_be_had_again(tmp_path: Path):
    rows = np.arange(2_500_001) * 2  # several blocks each, more than are shuffled together
    run = partial(given, rows=rows, batch=4096)
    found = run(tmp_path / "one", workers=2)
    for place in PLACES:
        one, other = (found[(rank, *place)] for rank in range(2))
        assert np.array_equal(one, other)
        assert np.array_equal(np.sort(one), rows), "each of them once"
        assert (np.diff(one[:4096]) < 0).any()
        # A batch is of all times, not of a window of them.
        assert abs(one[:4096].mean() - rows.mean()) < 0.05 * rows.mean()
    assert not np.array_equal(found[(0, 0, 0)], found[(0, 0, 1)])
    assert not np.array_equal(found[(0, 0, 0)], found[(0, 1, 0)])
    # As a training that was resumed with one worker: it begins with a later epoch.
    again = run(tmp_path / "again", workers=1, places=PLACES[1:])
    assert all(np.array_equal(again[place], found[place]) for place in again)
