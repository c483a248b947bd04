"""The shard of each worker: its own requests, each once, in an order that can be had again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.training import in_order, pointers, shard

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PLACES = ((0, 0), (0, 1), (1, 0))
"""Stages and epochs, in the order that a training goes through them."""


def read(settings: dict[str, Any]) -> None:
    """A worker that writes down what it is given."""
    import ray.train

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    for stage, epoch in settings["places"]:
        batches = list(shard(stage, epoch, settings["batch"], seed=3, world=world))
        path = Path(settings["folder"]) / f"{rank}-{stage}-{epoch}.npy"
        np.save(path, np.concatenate(batches))
        assert {len(batch) for batch in batches[:-1]} <= {settings["batch"] // world}


def given(folder: Path, rows: np.ndarray, *, workers: int, batch: int, places: Any = PLACES) -> Any:
    """Worker, stage and epoch to the rows of a small training, in order."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    folder.mkdir()
    TorchTrainer(
        read,
        train_loop_config={"folder": str(folder), "batch": batch, "places": places},
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        datasets={"train": pointers(rows, workers, seed=3)},
        dataset_config=in_order(),
        run_config=RunConfig(name="run", storage_path=str(folder / "run")),
    ).fit()
    return {
        (rank, *place): np.load(folder / f"{rank}-{place[0]}-{place[1]}.npy")
        for rank in range(workers)
        for place in places
    }


def test_two_workers_share_all_requests_and_an_epoch_can_be_had_again(tmp_path: Path):
    rows = np.arange(2_500_001) * 2  # several blocks each, more than are shuffled together
    run = partial(given, rows=rows, workers=2, batch=4096)
    found = run(tmp_path / "one")
    for place in PLACES:
        one, other = (found[(rank, *place)] for rank in range(2))
        assert len(one) == len(other) == 1_250_000
        assert len(np.union1d(one, other)) == 2_500_000, "each of them once"
        assert (np.diff(one[:4096]) < 0).any()
        # A batch is of all times, not of a window of them.
        assert abs(one[:4096].mean() - rows.mean()) < 0.05 * rows.mean()
    assert not np.array_equal(found[(0, 0, 0)], found[(0, 0, 1)])
    assert not np.array_equal(found[(0, 0, 0)], found[(0, 1, 0)])
    # As a training that was resumed: it begins with a later epoch.
    again = run(tmp_path / "again", places=PLACES[1:])
    assert all(np.array_equal(again[place], found[place]) for place in again)


def test_fewer_requests_than_workers_are_no_batch(tmp_path: Path):
    parts = pointers(np.asarray([7]), 2, seed=3)
    assert parts.count() == 0
