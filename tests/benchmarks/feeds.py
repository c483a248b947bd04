"""The world of `bench_feed`, and the feeds that a training could have of it.

Made-up users with as many events as real ones; every feed gives the same tensors of the same
requests. R requests, B requests of a batch, L interactions, F numbers of the user level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from models.catalogue import Catalogue, CatalogueConfig
from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION
from models.examples import Examples, Ints, Requests
from models.features import FeatureConfig, UserSide
from models.memory import Histories, MemorySpec, user_feature_names
from models.model import ModelConfig
from models.prefetch import ahead
from models.ranking.ranker import RankerConfig
from models.shuffling import blocks, shuffled

NUM_USERS, NUM_EVENTS, NUM_REQUESTS, NUM_ITEMS = 20_000, 60, 200_000, 5_000
BATCH = 4096
SESSION = 5  # events of one
BEGIN = 20_000 * DAY_MS
NUM_DAYS = 120
MODEL = ModelConfig(
    heads=("click",),
    target="click",
    catalogue=CatalogueConfig(categories=("kind",)),
    features=FeatureConfig(history=50),
    ranker=RankerConfig(),
)
FIELDS = ("item", "action", "age_days", "session")
"""What is repeated for each interaction where a row is an example."""
Tensors = dict[str, Tensor]


def world(seed: int = 1) -> Examples:
    """`NUM_REQUESTS` requests in the order of time, each with one click."""
    rng = np.random.default_rng(seed)
    catalogue = _catalogue()
    histories = _histories(rng, catalogue)
    as_of = np.sort(BEGIN + rng.integers(NUM_DAYS // 2 * DAY_MS, NUM_DAYS * DAY_MS, NUM_REQUESTS))
    num_long = len(user_feature_names(MODEL.memory))
    requests = Requests(
        user=rng.integers(0, NUM_USERS, NUM_REQUESTS),
        as_of_ms=as_of,
        session=np.zeros(NUM_REQUESTS, np.uint64),
        long=rng.normal(size=(NUM_REQUESTS, num_long)).astype(np.float32),
        context=np.zeros((NUM_REQUESTS, 0), np.int64),
        outcomes=_popular(rng, NUM_REQUESTS),
        labels=np.ones(NUM_REQUESTS, np.uint8),
        offsets=np.arange(NUM_REQUESTS + 1),
    )
    return Examples(
        requests,
        histories=histories,
        catalogue=catalogue,
        features=MODEL.features,
        memory=MemorySpec(),
    )


def _catalogue() -> Catalogue:
    table = pa.table(
        {
            "item_id": [f"item-{number}" for number in range(NUM_ITEMS)],
            "text": [f"a thing of sort {number % 97}" for number in range(NUM_ITEMS)],
            "kind": [f"kind-{number % 40}" for number in range(NUM_ITEMS)],
            "first_seen": pa.array([BEGIN] * NUM_ITEMS, pa.timestamp("ms", tz="UTC")),
        }
    )
    return Catalogue(table, MODEL.catalogue)


def _popular(rng: np.random.Generator, num: int) -> Ints:
    """`(num,)` places: few items are met often, as everywhere."""
    weights = 1 / np.arange(1, NUM_ITEMS + 1)
    return 1 + rng.choice(NUM_ITEMS, num, p=weights / weights.sum())


def _histories(rng: np.random.Generator, catalogue: Catalogue) -> Histories:
    num = NUM_USERS * NUM_EVENTS
    sessions = rng.integers(0, NUM_DAYS * DAY_MS, (NUM_USERS, NUM_EVENTS // SESSION))
    inside = rng.integers(0, 30 * 60_000, (NUM_USERS, NUM_EVENTS // SESSION, SESSION))
    ts = np.sort((np.sort(sessions)[..., None] + inside).reshape(NUM_USERS, -1), axis=1)
    records = np.zeros(num, INTERACTION)
    records["ts"], records["event"] = BEGIN + ts.ravel(), 1 + np.arange(num)
    records["item"] = catalogue.keys[_popular(rng, num)]
    codes = [ACTIONS[name].code for name in ("view", "click", "purchase")]
    records["action"] = rng.choice(codes, num, p=(0.8, 0.17, 0.03))
    return Histories(
        users=pa.array([f"user-{number:06}" for number in range(NUM_USERS)]),
        offsets=np.arange(NUM_USERS + 1) * NUM_EVENTS,
        interactions=records,
        arrived=records["ts"].astype(np.int64),
    )


def gathered(examples: Examples, rows: Ints) -> Tensors:
    """What a step would be given of requests `(B,)`: the user side and the outcome."""
    user = vars(examples.user_side(rows))
    return {**user, "outcome": torch.from_numpy(examples.requests.pairs(rows)[1])}


@dataclass(frozen=True)
class Feeds:
    """All feeds of one world; each is an epoch of batches."""

    examples: Examples
    folder: Path

    @cached_property
    def rows(self) -> Ints:
        return np.arange(len(self.examples.requests))

    @cached_property
    def whole(self) -> Tensors:
        """Every tensor of every request, in memory before the clock starts."""
        parts = [gathered(self.examples, rows) for rows in np.array_split(self.rows, 50)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def ours(self, *, off_thread: bool = True) -> Iterator[Tensors]:
        """Shuffled pointers, collated from histories that are stored once."""
        order = shuffled(blocks(self.rows, seed=1), BATCH, np.random.default_rng(1))
        if not off_thread:
            yield from (gathered(self.examples, rows) for rows in order)
            return
        with ahead(order, lambda rows: gathered(self.examples, rows)) as batches:
            yield from batches

    def ready(self) -> Iterator[Tensors]:
        """Tensors in memory, shuffled."""
        order = torch.from_numpy(np.random.default_rng(1).permutation(len(self.rows)))
        for rows in order.split(BATCH):
            yield {name: value[rows] for name, value in self.whole.items()}

    def loader(self, workers: int, *, by_row: bool) -> Iterator[Tensors]:
        """PyTorch's DataLoader over the Parquet file of one row per example, in file order."""
        made = DataLoader(
            OneRowPerExample(self.wide, by_row=by_row),
            batch_size=BATCH if by_row else None,
            num_workers=workers,
        )
        yield from made

    @cached_property
    def wide(self) -> Path:
        """The file with a row per example, the history repeated in every row."""
        path, whole = self.folder / "wide.parquet", self.whole
        columns = {name: _fixed(value) for name, value in whole.items() if value.ndim == 2}
        one = {name: pa.array(value.numpy()) for name, value in whole.items() if value.ndim == 1}
        del columns["context"], columns["sessions"]  # of no width; the same as `recent`
        pq.write_table(pa.table({**columns, **one}), path, row_group_size=BATCH)
        return path

    @cached_property
    def narrow(self) -> Path:
        """Our two files: a row per user with the history, and a row per request."""
        folder, examples = self.folder / "narrow", self.examples
        folder.mkdir()
        histories, requests = examples.histories, examples.requests
        offsets = pa.array(histories.offsets, pa.int32())
        lists = {
            name: pa.ListArray.from_arrays(offsets, pa.array(histories.interactions[name]))
            for name in INTERACTION.names or ()
        }
        arrived = pa.ListArray.from_arrays(offsets, pa.array(histories.arrived))
        users = pa.table({"user_id": histories.users, **lists, "arrived": arrived})
        pq.write_table(users, folder / "users.parquet")
        at = pa.array(requests.offsets, pa.int32())
        keys = examples.catalogue.keys[requests.outcomes]
        asked = {
            "user_id": histories.users.take(pa.array(requests.user)),
            "as_of": requests.as_of_ms,
            "session": requests.session,
            "items": pa.ListArray.from_arrays(at, pa.array(keys)),
            "labels": pa.ListArray.from_arrays(at, pa.array(requests.labels)),
            "long": _fixed(torch.from_numpy(requests.long)),
        }
        pq.write_table(pa.table(asked), folder / "requests.parquet")
        return folder


def _fixed(values: Tensor) -> pa.FixedSizeListArray:
    flat = pa.array(values.numpy().ravel())
    return pa.FixedSizeListArray.from_arrays(flat, max(values.shape[1], 1))


class OneRowPerExample(IterableDataset[Any]):
    """Reads the wide file row group by row group, and gives rows or whole groups as batches."""

    def __init__(self, path: Path, *, by_row: bool) -> None:
        self.path, self.by_row = path, by_row

    def __iter__(self) -> Iterator[Tensors]:
        info = torch.utils.data.get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        file = pq.ParquetFile(self.path)
        for group in range(first, file.num_row_groups, step):
            batch = _tensors(file.read_row_group(group))
            if self.by_row:
                yield from _rows(batch)
            else:
                yield batch


def _tensors(table: pa.Table) -> Tensors:
    found = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            found[name] = torch.from_numpy(flat.reshape(len(table), -1).copy())
        else:
            found[name] = torch.from_numpy(column.to_numpy(zero_copy_only=False).copy())
    found["sessions"] = found["recent"]
    return found


def _rows(batch: Tensors) -> Iterator[Tensors]:
    for row in range(len(batch["outcome"])):
        yield {name: value[row] for name, value in batch.items()}


def same(one: Tensors, other: Tensors) -> bool:
    """Whether two batches agree in all that both have."""
    names = set(UserSide.__annotations__) - {"context"} | {"outcome"}
    return all(torch.equal(one[name], other[name]) for name in names)
