"""Embedding tables: which items have a row of their own, and which worker holds which rows.

All tables have sparse gradients: a step of the optimizer touches the rows that occurred.

*Admission.* An item that occurs often enough in what trains has a row of its own. Rarer ones share
a few rows by a hash of their key ("overflow"; Weinberger et al., ICML 2009), and row 0, which says
nothing, is everyone else's. So a table grows with what occurs, not with the catalogue.

*Parts.* Workers that share a training may each hold every W-th row and the optimizer's state of it,
where a device could not hold them all. A lookup asks the owners for vectors, and their gradients go
back to the owners alone, who take the mean over workers as DDP does. Files always hold whole
tables, so that one of W parts is read by any number of workers.

I places, R rows, D width, N rows asked for, U distinct ones, M held by this worker, W workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

Ints = NDArray[np.int64]
BLOCK = 1 << 16
"""Rows of each worker that are gathered at once."""


class Table(nn.Embedding):
    """`(R, D)` vectors, whole or in parts.

    In parts all workers look up, save and load at the same places: each call waits for the others.
    """

    def __init__(self, num_rows: int, width: int, *, padding: int | None = None) -> None:
        super().__init__(num_rows, width, padding_idx=padding, sparse=True)
        # torch leaves both untyped.
        self.register_state_dict_post_hook(_store)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_fetch)  # type: ignore[no-untyped-call]

    def forward(self, rows: Tensor) -> Tensor:
        """`(...)` rows to `(..., D)`."""
        part = part_of(self.weight)
        return super().forward(rows) if part is None else part.read(self.weight, rows)

    def room_for(self, stored: dict[str, Tensor], prefix: str) -> None:
        """Before tensors are loaded: none but their very number of rows is welcome."""


class BagTable(Table):
    """A table read by bags: the mean of a bag's rows. Row 0 is padding."""

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__(num_rows, width, padding=0)

    def forward(self, rows: Tensor) -> Tensor:
        """`(N, G)` rows to `(N, D)`."""
        weight = self.weight
        if part_of(weight) is not None:
            # Padding comes first, whether there is any or not.
            distinct, where = torch.unique(
                functional.pad(rows.flatten(), (1, 0)), return_inverse=True
            )
            rows, weight = where[1:].view_as(rows), super().forward(distinct)
            return functional.embedding_bag(rows, weight, mode="mean", padding_idx=0)
        return functional.embedding_bag(rows, weight, mode="mean", sparse=True, padding_idx=0)


class IdTable(Table):
    """A table read by places of a catalogue. It begins at zero.

    Args:
        least: how often an item must occur for a row of its own; 0: every item has one.
        overflow: rows that items share which occur, but less often.
    """

    row: Tensor | None
    """`(I,)` of each place; None: its own number."""

    def __init__(self, num_places: int, width: int, *, least: int = 0, overflow: int = 0) -> None:
        super().__init__(1 + overflow if least else num_places, width, padding=0)
        nn.init.zeros_(self.weight)
        self.least, self.overflow = least, overflow
        self.register_buffer("row", torch.zeros(num_places, dtype=torch.int32) if least else None)

    def forward(self, places: Tensor) -> Tensor:
        """`(...)` places to `(..., D)`."""
        return super().forward(places if self.row is None else self.row[places].long())

    def admit(self, counts: Ints, keys: NDArray[np.uint64]) -> None:
        """Gives rows to items; all of them are zero then.

        Args:
            counts: `(I,)` how often each place occurs in what trains.
            keys: `(I,)` of the items.
        """
        if self.row is None:
            return
        row = admitted(counts, keys, least=self.least, overflow=self.overflow)
        self.row.copy_(torch.from_numpy(row))
        self._resize(max(1 + self.overflow, int(row.max()) + 1))

    def rows_of(self, places: Tensor) -> Tensor:
        """Distinct rows of places, in order, without the one that says nothing."""
        rows: Tensor = torch.unique(places if self.row is None else self.row[places].long())
        return rows[rows > 0]

    def rows_before(self, places: Ints, row: NDArray[np.int32] | None) -> Ints:
        """Where each row was in an earlier table; shared rows are the same ones.

        An item that shared a row goes on from there when it has one of its own.

        Args:
            places: `(I,)` the earlier place of each item, -1 where there was none.
            row: of the earlier places; None where every place had its own.

        Returns:
            `(R,)`, -1 for what is new.
        """
        if self.row is None or row is None:
            return places
        now = self.row.numpy(force=True).astype(np.int64)
        found = np.full(len(self.weight), -1)
        found[: 1 + self.overflow] = np.arange(1 + self.overflow)
        own = np.flatnonzero((now > self.overflow) & (places >= 0))
        found[now[own]] = np.where(row[places[own]] > 0, row[places[own]], -1)
        return found

    def room_for(self, stored: dict[str, Tensor], prefix: str) -> None:
        """A network is built before its file is read: rows are as many as that one has."""
        row, weight = stored.get(prefix + "row"), stored[prefix + "weight"]
        if self.row is None or row is None or part_of(self.weight) is not None:
            return
        if row.min() >= 0 and max(int(row.max()), self.overflow) < len(weight):
            self._resize(len(weight))

    def _resize(self, num_rows: int) -> None:
        if num_rows != len(self.weight):
            self.weight = nn.Parameter(self.weight.new_zeros(num_rows, self.embedding_dim))
            self.num_embeddings = num_rows


def admitted(
    counts: Ints, keys: NDArray[np.uint64], *, least: int, overflow: int
) -> NDArray[np.int32]:
    """`(I,)` the row of each place: 0, then those shared, then those of one item each.

    Args:
        counts: `(I,)` how often each place occurs; what place 0 does is of no account.
        keys: `(I,)` hashes of the items' ids.
    """
    counts = np.where(np.arange(len(counts)) > 0, counts, 0)
    own, rare = counts >= max(least, 1), (counts > 0) & (counts < least)
    row = np.zeros(len(counts), np.int32)
    row[own] = 1 + overflow + np.arange(own.sum())
    if overflow:
        row[rare] = 1 + (keys[rare] % np.uint64(overflow)).astype(np.int32)
    return row


@dataclass(frozen=True)
class Part:
    """The rows `rank::world` of a table of `num_rows`."""

    num_rows: int
    rank: int
    world: int
    group: distributed.ProcessGroup
    """Of its own: DDP speaks in another one at the same time."""
    padding: int | None = None

    def mine(self, whole: Tensor) -> Tensor:
        """`(M, ...)` out of `(R, ...)`."""
        return whole[self.rank :: self.world].clone()

    def whole(self, mine: Tensor) -> Tensor:
        """`(R, ...)` on the CPU, gathered block by block; all workers call and all have it."""
        found = torch.empty(self.num_rows, *mine.shape[1:], dtype=mine.dtype)
        most = -(-self.num_rows // self.world)
        for first in range(0, most, BLOCK):
            some = mine[first : first + BLOCK]
            block = mine.new_zeros(min(BLOCK, most - first), *mine.shape[1:])
            block[: len(some)] = some
            blocks = [torch.empty_like(block) for _ in range(self.world)]
            distributed.all_gather(blocks, block, group=self.group)
            for rank, given in enumerate(blocks):
                to = found[first * self.world + rank :: self.world][: len(block)]
                to.copy_(given[: len(to)])
        return found

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def read(self, weight: Tensor, rows: Tensor) -> Tensor:
        """`(...)` rows to `(..., D)`; each distinct one is asked for once."""
        distinct, where = torch.unique(rows, return_inverse=True)
        found: Tensor = _Exchange.apply(weight, distinct, self)  # type: ignore[no-untyped-call]
        return functional.embedding(where, found)

    def exchange(self, values: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Sends the first `sent[0]` values to worker 0, and so on; likewise what comes."""
        found = values.new_empty(sum(received), *values.shape[1:])
        distributed.all_to_all_single(found, values.contiguous(), received, sent, group=self.group)
        return found


class _Exchange(torch.autograd.Function):
    """Distinct rows `(U,)` to vectors `(U, D)`, whoever holds them."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, distinct: Tensor, part: Part) -> Tensor:
        owner = distinct % part.world
        order = owner.argsort(stable=True)
        num = torch.bincount(owner, minlength=part.world)
        ones = [1] * part.world
        asked, wanted = num.tolist(), part.exchange(num, ones, ones).tolist()
        rows = part.exchange(distinct[order] // part.world, asked, wanted)
        vectors = part.exchange(weight[rows], wanted, asked)
        ctx.save_for_backward(order, rows)
        ctx.part, ctx.shape, ctx.asked, ctx.wanted = part, weight.shape, asked, wanted
        return torch.empty_like(vectors).index_copy_(0, order, vectors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, rows = ctx.saved_tensors
        part: Part = ctx.part
        given = part.exchange(gradient[order], ctx.asked, ctx.wanted) / part.world
        if part.padding is not None:
            real = rows * part.world + part.rank != part.padding
            rows, given = rows[real], given[real]
        found = torch.sparse_coo_tensor(rows[None], given, ctx.shape, check_invariants=False)
        return found, None, None


def part_of(weight: Tensor) -> Part | None:
    """What part of a table its weight is; None: all of it."""
    return getattr(weight, "part", None)


def shard(net: nn.Module, *, rank: int, world: int) -> None:
    """Leaves to each worker its part of every table; all of them call, with equal networks.

    What wraps the network in DDP comes after it: DDP leaves these parameters alone.
    """
    group = distributed.new_group()
    assert group is not None, "every worker is in it"
    names = []
    for name, table in _tables(net):
        part = Part(len(table.weight), rank, world, group, table.padding_idx)
        table.weight = nn.Parameter(part.mine(table.weight.detach()))
        table.weight.part = part  # type: ignore[attr-defined]  # found again by optimizers' files
        names += [f"{name}.weight", f"_orig_mod.{name}.weight"]  # torch.compile renames them
    _leave_alone(net, names)


def join(net: nn.Module) -> None:
    """Makes every table whole again, on the CPU of each worker; all of them call."""
    for _, table in _tables(net):
        part = part_of(table.weight)
        if part is not None:
            table.weight = nn.Parameter(part.whole(table.weight.detach()))
    _leave_alone(net, [])


def _leave_alone(net: nn.Module, names: list[str]) -> None:
    """Tells DDP, which torch leaves untyped, what parameters are none of its own."""
    ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(net, names)


def _tables(net: nn.Module) -> Iterator[tuple[str, Table]]:
    return ((name, m) for name, m in net.named_modules() if isinstance(m, Table))


def _store(table: Table, stored: dict[str, Tensor], prefix: str, _: object) -> None:
    """A state dict holds the whole table."""
    part = part_of(table.weight)
    if part is not None:
        stored[prefix + "weight"] = part.whole(table.weight.detach())


def _fetch(table: Table, stored: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Out of a state dict each takes its own."""
    if prefix + "weight" not in stored:
        return
    table.room_for(stored, prefix)
    part = part_of(table.weight)
    if part is not None:
        stored[prefix + "weight"] = part.mine(stored[prefix + "weight"])
