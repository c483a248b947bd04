"""The other side of `bench_prepare`: the same pure functions over one whole table, without Ray."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import models.requests
from configs.load import Document
from jobs import console, pipeline
from jobs.prepare import balance, find
from jobs.sources import adapter, whole
from models.catalogue import Catalogue
from models.items import catalogue_table, first_rows
from models.mapping import clean, map_rows
from models.requests import SPLITS, partition

STEPS = (
    "read and clean the rows",
    "set wrong rows aside",
    "gather the catalogue",
    "histories and requests by user",
)
"""As the job calls them."""


def one_process(document: Document) -> dict[str, Any]:
    """What `jobs.prepare.prepare` does, over the whole table at once."""
    folder = document.folder / "prepared"
    for name in ("users", "requests", "quarantine"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    source, own = find(document)
    with console.step(STEPS[0]):
        raw = whole(source, document.source)
        adapted = adapter(document.source.adapter)(raw)
        context = document.requests.context
        mapped = map_rows(adapted, source=document.source, items=document.items, context=context)
        rows = clean(raw, mapped, source=document.source, now_ms=time.time_ns() // 1_000_000)
    with console.step(STEPS[1]):
        wrong = pipeline._wrong(rows)
        counts = pc.value_counts(wrong["reason"]).to_pylist()
        reasons = {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: -c["counts"])}
        pq.write_table(wrong, folder / "quarantine" / "all.parquet")
    with console.step(STEPS[2]):
        settings = {"catalogue": document.catalogue, "items": document.items}
        first = first_rows(pipeline._good(rows))
        items = catalogue_table(first, source=document.source, own=own, **settings)
    with console.step(STEPS[3]):
        catalogue = Catalogue(items, document.catalogue)
        made = partition(
            pipeline._events(rows),
            requests=document.requests,
            memory=document.memory,
            interests=catalogue.interests,
        )
        for name in ("users", "requests"):
            path = folder / name / "all.parquet"
            pq.write_table(getattr(made, name), path, compression="zstd")
    catalogue.save(folder / "catalogue.parquet")
    return balance(len(raw), reasons, [_counts(made)], len(items))


def _counts(made: models.requests.Part) -> dict[str, Any]:
    ts, splits = made.histories.interactions["ts"], made.requests["split"].to_pylist()
    return {
        "users": len(made.users),
        "kept": len(ts),
        "duplicates": made.num_duplicates,
        "late": made.num_late,
        "first_ms": int(ts.min()),
        "last_ms": int(ts.max()),
        **{split: splits.count(split) for split in SPLITS},
    }


def without_features(document: Document) -> dict[str, Any]:
    """`one_process`, where requests say nothing of the user's memory."""
    plain = models.requests._features

    def nothing(histories: Any, users: Any, as_of: Any, memory: Any) -> pa.Array:
        width = len(models.requests.user_feature_names(memory))
        return pa.FixedSizeListArray.from_arrays(np.zeros(len(users) * width, np.float32), width)

    models.requests._features = nothing
    try:
        return one_process(document)
    finally:
        models.requests._features = plain
