"""How many trials run at once, and what Ray sets aside for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from configs.load import Document


@dataclass(frozen=True)
class Slots:
    """Room for trials on a cluster."""

    concurrent: int
    task: dict[str, float]
    """Ray options of the task of a trial. With workers of Ray Train they hold the CPUs and the task
    none, for it only waits: a trial that has its task can always have its workers too."""


def slots_of(document: Document, available: Mapping[str, float]) -> Slots:
    """Room for the trials of a document on what Ray has.

    Raises:
        ValueError: when trials would wait for CPUs or GPUs that are not there.
    """
    train, tune = document.train, document.tune
    gpus = available.get("GPU", 0)
    use_gpu = gpus > 0 if train.use_gpu is None else train.use_gpu
    each = {"CPU": max(train.num_workers, 1) * train.cpus_per_worker}
    if use_gpu:
        each["GPU"] = max(train.num_workers, 1)
    most = min(int(available.get(name, 0) / wanted + 1e-9) for name, wanted in each.items())
    concurrent = min(tune.concurrent or max(most, 1), tune.trials)
    for name, wanted in each.items():
        if concurrent * wanted > available.get(name, 0) + 1e-9:
            workers = f"{train.num_workers} workers" if train.num_workers else "one process"
            raise ValueError(
                f"tune: {concurrent} trial(s) at once, each {workers} with {wanted:g} {name}(s) in "
                f"all, need {concurrent * wanted:g}; Ray has {available.get(name, 0):g}: lower "
                "--concurrent, train.num_workers or train.cpus_per_worker"
            )
    if train.num_workers:
        return Slots(concurrent, {"num_cpus": 0})
    return Slots(concurrent, {"num_cpus": each["CPU"], "num_gpus": each.get("GPU", 0)})
