"""Workers that hold parts of tables: processes of this machine, over gloo."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn

import models.tables
from models.checkpoints import load_optimizers, load_weights, save_optimizers, save_weights
from models.tables import BagTable, IdTable, Table, join, shard

WORKERS, ROWS, STEPS = 2, 7, 3


def tables() -> nn.ModuleDict:
    """One of each kind, of which a worker's part is none of the same size as another's."""
    torch.manual_seed(3)
    net = torch.nn.ModuleDict(
        {"id": IdTable(ROWS, 4), "plain": Table(ROWS, 4), "bag": BagTable(ROWS, 4)}
    )
    torch.nn.init.normal_(net["id"].weight)
    return net


def asked(step: int, rank: int) -> Tensor:
    """What a worker looks up in a step: 0 occurs, and so does what the other one asks for.

    In the last step the second worker asks for nothing.
    """
    generator = torch.Generator().manual_seed(10 * step + rank)
    num = 0 if (step, rank) == (STEPS - 1, 1) else 6
    return torch.randint(ROWS, (num, 3), generator=generator)


def losses(net: nn.ModuleDict, rows: Tensor) -> Tensor:
    """A sum with another gradient for every table, place and row."""
    weights = torch.arange(rows.numel(), dtype=torch.float32).view(*rows.shape, 1).cos()
    values = [(net["id"](rows) * weights).pow(2), (net["plain"](rows) * weights).sin()]
    values.append((net["bag"](rows) * weights[:, 0]).sin())
    return torch.stack([value.sum() for value in values]).sum()


def worker(rank: int, folder: Path) -> None:
    """Some steps, with everything stored and read anew after the first; then whole tables."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORKERS
    )
    models.tables.BLOCK = 2  # so that there are several
    net = tables()
    shard(net, rank=rank, world=WORKERS)
    tool = torch.optim.SparseAdam(list(net.parameters()), lr=0.1)
    held = {name: len(table.weight) for name, table in net.items()}
    found = []
    for step in range(STEPS):
        loss = losses(net, asked(step, rank))
        found.append(loss.item())
        tool.zero_grad()
        loss.backward()
        tool.step()
        save_weights(net, folder / f"{rank}.safetensors")
        if step == 0:
            save_optimizers([tool], folder / f"tool-{rank}")
            for parameter in net.parameters():
                nn.init.zeros_(parameter)
            load_weights(net, folder / f"{rank}.safetensors")
            tool = torch.optim.SparseAdam(list(net.parameters()), lr=0.1)
            load_optimizers([tool], folder / f"tool-{rank}")
    before = net.state_dict()
    join(net)
    joined = all(torch.equal(net[name].weight, before[f"{name}.weight"]) for name in net)
    told = {"losses": found, "held": held, "joined": joined}
    (folder / f"{rank}.json").write_text(json.dumps(told))
    distributed.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(worker, args=(Path(sys.argv[1]),), nprocs=WORKERS)
