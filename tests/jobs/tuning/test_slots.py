"""How many trials fit on a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.load import load
from jobs.tuning.slots import slots_of

CONFIG = Path(__file__).parents[3] / "configs/online_retail.yaml"


@pytest.mark.parametrize(
    ("sets", "cluster", "concurrent", "task"),
    [
        (["train.num_workers=0"], {"CPU": 4}, 4, {"num_cpus": 1, "num_gpus": 0}),
        (["train.num_workers=0", "tune.trials=3"], {"CPU": 4}, 3, {"num_cpus": 1, "num_gpus": 0}),
        (["train.num_workers=2"], {"CPU": 5}, 2, {"num_cpus": 0}),
        (["train.num_workers=2", "train.cpus_per_worker=0.5"], {"CPU": 2}, 2, {"num_cpus": 0}),
        (["train.num_workers=1", "tune.concurrent=2"], {"CPU": 9}, 2, {"num_cpus": 0}),
        (["train.num_workers=0"], {"CPU": 8, "GPU": 2}, 2, {"num_cpus": 1, "num_gpus": 1}),
        (["train.num_workers=0", "train.use_gpu=false"], {"CPU": 3, "GPU": 1}, 3, None),
    ],
)
def test_trials_at_once_are_as_many_as_have_room(sets, cluster, concurrent, task):
    slots = slots_of(load(CONFIG, sets), cluster)
    assert slots.concurrent == concurrent
    assert task is None or slots.task == task


@pytest.mark.parametrize(
    ("sets", "cluster", "said"),
    [
        (["train.num_workers=3"], {"CPU": 2}, r"each 3 workers with 3 CPU\(s\).* Ray has 2"),
        (["train.num_workers=0", "tune.concurrent=3"], {"CPU": 2}, r"3 trial\(s\) at once.*need 3"),
        (["train.use_gpu=true"], {"CPU": 2}, r"GPU\(s\) in all, need 1; Ray has 0"),
    ],
)
def test_trials_that_would_wait_for_ever_are_refused(sets, cluster, said):
    with pytest.raises(ValueError, match=said):
        slots_of(load(CONFIG, sets), cluster)
