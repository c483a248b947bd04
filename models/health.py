"""Whether a training is well: gradients of its steps, and rows of its embedding tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.training import CLIP, Taken, is_table


class Gradients:
    """What the steps since the last report were like."""

    def __init__(self) -> None:
        self._norms: list[float] = []

    def __len__(self) -> int:
        return len(self._norms)

    def add(self, taken: Taken) -> None:
        """One more step."""
        self._norms.append(taken.norm)

    def report(self) -> dict[str, float]:
        """Mean and greatest norm of the dense gradient, and how often it was clipped; clears."""
        norms, self._norms = torch.tensor(self._norms), []
        return {
            "grad_norm": float(norms.mean()),
            "grad_norm_max": float(norms.max()),
            "clipped": float((norms > CLIP).float().mean()),
        }


@torch.no_grad()
def tables(net: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, float]:
    """Of each embedding table: mean and greatest norm of a row, and the share never touched.

    Untouched are rows of which the optimizer has no moments. Reads every row once; of a table in
    parts those of this worker, none where it has none.
    """
    states = {id(p): state for optimizer in optimizers for p, state in optimizer.state.items()}
    found = {}
    for name, table in net.named_parameters():
        if is_table(net, name) and len(table):
            short, norms = name.removesuffix(".weight"), table.norm(dim=1)
            found[f"{short}/norm"] = float(norms.mean())
            found[f"{short}/norm_max"] = float(norms.max())
            found[f"{short}/untouched"] = _untouched(table, states.get(id(table), {}))
    return found


def _untouched(table: Tensor, state: dict[str, object]) -> float:
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == table.shape:
            return float((value == 0).all(1).float().mean())
    return 1.0
