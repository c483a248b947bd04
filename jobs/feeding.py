"""The feed of a training: what is shuffled, through Ray Data, and the batches that come of it.

What travels is pointers of eight bytes. Every worker reads all of them and takes its part of each
batch (`models.steps.Step.mine`), so that the batches of a training are the same with any number of
workers, and one that was cut off may go on with another.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import ray.data
import ray.train

from models.examples import Ints
from models.progress import STAGES
from models.shuffling import blocks, shuffled


def pointers(units: Ints, *, seed: int) -> ray.data.Dataset:
    """The units of a stage as a Ray data set."""
    return ray.data.from_arrow([pa.table({"unit": part}) for part in blocks(units, seed=seed)])


def in_order() -> ray.train.DataConfig:
    """Each worker gets all blocks, in the same order in every run."""
    return ray.train.DataConfig(
        datasets_to_split=[],
        execution_options=ray.data.ExecutionOptions(preserve_order=True),
        enable_shard_locality=False,
    )


def shard(stage: int, epoch: int, batch: int, *, seed: int) -> Iterator[Ints]:
    """The batches of one epoch of a stage, of all workers together, shuffled anew each time."""
    found = ray.train.get_dataset_shard(STAGES[stage]).iter_batches(
        batch_size=None,
        batch_format="numpy",
        # With two, Ray hands batches on in the order that its threads finish them: no run is the
        # same twice.
        prefetch_batches=1,
    )
    generator = np.random.default_rng(seed * 1000 + stage * 100 + epoch)
    return shuffled((block["unit"] for block in found), batch, generator)
