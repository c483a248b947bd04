"""The catalogue: every item once, with its text and fields, at a fixed place.

Place 0 stands for "no item, or one that is not here". Events, models and the index speak of places;
people and the endpoints of item ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from models.config import Config, digest_of
from models.events import keys64


class CatalogueConfig(Config):
    """Which columns of the item table mean what."""

    categories: tuple[str, ...] = ()
    """Text columns whose values become embedding rows and filters; the first is the interest."""
    numbers: tuple[str, ...] = ()
    """Numeric columns; models see log(1 + |x|), filters see ranges."""
    num_interests: int = Field(64, ge=2)
    """As in the memory's state spec."""


class Catalogue:
    """Items of one release, in the order of the table given.

    Args:
        table: a row per item: `item_id`, `text`, `first_seen` (timestamp), the configured fields.

    Raises:
        ValueError: when a column is missing, an item occurs twice, or two ids share a key.
    """

    def __init__(self, table: pa.Table, config: CatalogueConfig) -> None:
        needed = ("item_id", "text", "first_seen", *config.categories, *config.numbers)
        missing = [name for name in needed if name not in table.column_names]
        if missing:
            raise ValueError(f"catalogue lacks the column(s) {', '.join(missing)}")
        self.config = config
        self.table = table.combine_chunks()
        self.item_ids: list[str] = table["item_id"].to_pylist()
        self.keys = np.append(np.zeros(1, np.uint64), keys64(table["item_id"]))
        self._order = np.argsort(self.keys)
        self._sorted = self.keys[self._order]
        if (np.diff(self._sorted) == 0).any():
            raise ValueError("catalogue: item ids must be distinct, and so must their keys")

    def __len__(self) -> int:
        """Number of places, the unknown one included."""
        return len(self.keys)

    def places(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The place of each item key, 0 where the catalogue has no such item. Any shape."""
        found = np.minimum(np.searchsorted(self._sorted, keys), len(self.keys) - 1)
        return np.where(self._sorted[found] == keys, self._order[found], 0)

    def place_of(self, item_id: str) -> int:
        """The place of one item id, 0 when unknown."""
        return self._by_id.get(item_id, 0)

    @cached_property
    def _by_id(self) -> dict[str, int]:
        return {item_id: place for place, item_id in enumerate(self.item_ids, start=1)}

    @cached_property
    def texts(self) -> list[str]:
        """`len(self)` texts; the unknown item's is empty."""
        return ["", *(text or "" for text in self.table["text"].to_pylist())]

    @cached_property
    def first_seen_ms(self) -> NDArray[np.int64]:
        """`(I,)` when each item appeared; the unknown one never does."""
        seen = self.table["first_seen"].cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64())
        return np.append(np.iinfo(np.int64).max, seen.to_numpy())

    @cached_property
    def categories(self) -> NDArray[np.int64]:
        """`(I, F)` code of each category field, 0 for unknown; names in `category_values`."""
        columns = []
        for name, values in self.category_values.items():
            codes = pc.index_in(self.table[name].cast(pa.string()), value_set=pa.array(values))
            columns.append(np.append(0, pc.fill_null(codes, 0).to_numpy()))
        shape = (len(self), len(columns))
        return np.stack(columns, axis=1).astype(np.int64) if columns else np.zeros(shape, np.int64)

    @cached_property
    def category_values(self) -> dict[str, list[str]]:
        """The values of each category field, sorted; code 0 is the empty text, unknown."""
        found = {}
        for name in self.config.categories:
            values = pc.unique(self.table[name].cast(pa.string())).to_pylist()
            found[name] = ["", *sorted(v for v in values if v)]
        return found

    @cached_property
    def numbers(self) -> NDArray[np.float32]:
        """`(I, N)` sign(x) log(1 + |x|) of each numeric field; missing or not finite is 0."""
        columns = [
            np.append(0.0, self.table[n].cast(pa.float64()).to_numpy()) for n in self.config.numbers
        ]
        raw = np.stack(columns, axis=1) if columns else np.zeros((len(self), 0))
        raw = np.where(np.isfinite(raw), raw, 0.0)  # null comes as nan
        return (np.sign(raw) * np.log1p(np.abs(raw))).astype(np.float32)

    def interests(self, keys: NDArray[np.uint64]) -> NDArray[np.uint16]:
        """The interest bucket of each item key: a hash of its first category; 0 unknown."""
        return self._interest_of_place[self.places(keys)]

    @cached_property
    def _interest_of_place(self) -> NDArray[np.uint16]:
        if not self.config.categories:
            return np.zeros(len(self), np.uint16)
        hashed = keys64(self.table[self.config.categories[0]].cast(pa.string()))
        buckets = 1 + hashed % np.uint64(self.config.num_interests - 1)
        return np.where(self.categories[:, 0] == 0, 0, np.append(0, buckets)).astype(np.uint16)

    def allowed(
        self,
        *,
        equal: Mapping[str, Sequence[str]] | None = None,
        between: Mapping[str, tuple[float | None, float | None]] | None = None,
    ) -> NDArray[np.bool_]:
        """`(I,)` which places pass every filter; place 0 never does.

        Args:
            equal: category field to the values allowed.
            between: numeric field to its bounds, both included, None for open.

        Raises:
            ValueError: naming the field that is no filter, and those that are.
        """
        mask = np.ones(len(self) - 1, bool)
        for name, values in (equal or {}).items():
            self._check_field(name, self.config.categories)
            column = self.table[name].cast(pa.string())
            mask &= np.asarray(pc.is_in(column, value_set=pa.array(values, pa.string())))
        for name, (low, high) in (between or {}).items():
            self._check_field(name, self.config.numbers)
            column = self.table[name].cast(pa.float64()).to_numpy()
            mask &= np.isfinite(column)
            mask &= (column >= (-np.inf if low is None else low)) & (
                column <= (np.inf if high is None else high)
            )
        return np.append(False, mask)

    @staticmethod
    def _check_field(name: str, fields: tuple[str, ...]) -> None:
        if name not in fields:
            raise ValueError(f"filters: {name!r} is none of the fields {', '.join(fields)}")

    def digest(self) -> str:
        """Sixteen hex digits of what stands at which place: rows of embeddings go by it."""
        return digest_of([hashlib.sha256(self.keys.tobytes()).hexdigest(), self.category_values])

    def save(self, path: Path) -> None:
        """Writes the table as Parquet."""
        pq.write_table(self.table, path, compression="zstd")

    @staticmethod
    def load(path: Path, config: CatalogueConfig) -> Catalogue:
        """Reads what `save` wrote."""
        return Catalogue(pq.read_table(path), config)
