"""A training that workers share without Ray: processes of this machine, over gloo."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from models.fitting import Splits, Trainer
from models.training import TrainConfig
from tests.models.small import MODEL, TRAIN, feed_of, planted
from tests.worlds import SERVING

ROOT = Path(__file__).parents[2]


def calm(**changes: Any) -> TrainConfig:
    """Two epochs of each stage in batches that two workers do not share evenly."""
    stage = TRAIN.retriever.model_copy(update={"epochs": 2, "batch": 31, **changes})
    return TRAIN.model_copy(update={"retriever": stage, "ranker": stage})


def trainer(train: TrainConfig, *, share: tuple[int, int] = (0, 1)) -> Trainer:
    """On the planted world, without dropout, whose noise no two workers share alike."""
    small = planted()
    parts = {
        name: getattr(MODEL, name).model_copy(update={"dropout": 0.0})
        for name in ("retriever", "ranker")
    }
    return Trainer(
        small.examples,
        Splits(small.rows("train"), small.rows("validate")),
        model=MODEL.model_copy(update=parts),
        serving=SERVING,
        train=train,
        share=share,
    )


def run(made: Trainer, *, checkpoints: Path | None = None) -> dict[str, Any]:
    """Trains to the end; the loss of every step, and the figures of every epoch.

    Args:
        checkpoints: gets a folder for each checkpoint, by the number of steps taken here.
    """
    losses: list[float] = []

    def save() -> None:
        if checkpoints is not None and (made.rank == 0 or made.sharded):
            folder = checkpoints / f"{len(losses):02}"
            folder.mkdir(parents=True)
            made.save(folder, Path(best))

    with tempfile.TemporaryDirectory() as best:
        made.fit(
            feed_of(made),
            best=Path(best),
            on_step=lambda stage, done, loss: losses.append(loss),
            on_save=save,
            wrap=DistributedDataParallel if made.world > 1 else lambda net: net,
        )
    return {"losses": losses, "history": made.progress.history}


def workers(num: int, folder: Path, train: TrainConfig, *, resumed: str = "") -> dict[str, Any]:
    """What `num` processes come to; their checkpoints lie in `folder`, in `checkpoints-0`."""
    command = [sys.executable, "-m", "tests.models.sharing"]
    given = [str(num), str(folder), train.model_dump_json(), resumed]
    processes = [subprocess.Popen([*command, str(rank), *given], cwd=ROOT) for rank in range(num)]
    try:
        while any(process.poll() is None for process in processes):
            assert not any(process.poll() for process in processes), "one of them broke"
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()  # the other one would wait for it
    assert [process.wait() for process in processes] == [0] * num
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def worker(rank: int, world: int, folder: str, given: str, resumed: str) -> None:
    """One of `world` processes; the first writes down what came of it.

    Args:
        resumed: a checkpoint to go on from; the empty text for none.
    """
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    made = trainer(TrainConfig.model_validate_json(given), share=(rank, world))
    if resumed:
        made.resume(Path(resumed))
    found = run(made, checkpoints=Path(folder) / f"checkpoints-{rank}")
    distributed.destroy_process_group()
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    worker(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
