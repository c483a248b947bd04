"""The steps of `prepare` on Ray Data: chunks of the log, then parts of the users.

Ray Data hands out the work and hands back counts. Rows go from one step to the next through files:
neither its object store nor a heap must hold them, and a killed run has kept what it had done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from jobs.preparing.building import Building
from jobs.preparing.cleaning import Cleaning
from jobs.sources import Chunk
from models.catalogue import Catalogue, CatalogueConfig

Counts = dict[str, Any]


def quiet() -> None:
    """Ray Data without bars and chatter of its own, and with the errors of our functions as is."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error is raised, not just told


def clean(
    chunks: Sequence[Chunk], cleaning: Mapping[str, Cleaning], folder: Path
) -> Iterator[Counts]:
    """The counts of each chunk, as it is done; `cleaning` has what is done with it by its id."""
    target = folder.absolute()
    return _each([(cleaning[c.id], c) for c in chunks], lambda one: one[0].run(one[1], target))


def build(building: Building, items: pa.Table, config: CatalogueConfig) -> Iterator[Counts]:
    """The counts of each part, as it is done."""
    shared = ray.put(items)

    def one(part: int) -> Counts:
        return building.run(part, Catalogue(ray.get(shared), config))

    return _each(list(range(building.num_parts)), one)


def _each(work: list[Any], function: Callable[[Any], Counts]) -> Iterator[Counts]:
    """`function` of each piece of work, in a task of its own."""
    if not work:
        return
    pieces = ray.data.range(len(work), override_num_blocks=len(work))
    given = ray.put(work)

    def task(row: dict[str, int]) -> dict[str, Counts]:
        return {"done": function(ray.get(given)[row["id"]])}

    for row in pieces.map(task).iter_rows():
        yield row["done"]
