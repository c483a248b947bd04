"""A slice of the bundled data with tiny networks: the whole way in about a minute."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from configs.load import Document, load

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/online_retail.yaml"
BUNDLED = ROOT / "jobs/datasets/online_retail/online_retail.parquet"

TINY = (
    "memory.state.ring=32",
    "memory.state.num_interests=16",
    "features.history=24",
    "features.text_buckets=512",
    "features.text_grams=12",
    "retriever.width=8",
    "retriever.heads=2",
    "retriever.num_negatives=64",
    "ranker.width=8",
    "ranker.num_cross=1",
    "ranker.cross_rank=4",
    "ranker.hidden=8",
    "candidates={memory: 20, vector: 30, trending: 15, fresh: 5, lexical: 20, total: 60}",
    # As many epochs as said, whatever validation says: tests count them.
    "train.retriever={epochs: 2, batch: 64, patience: 9, learning_rate: 0.01}",
    "train.ranker={epochs: 2, batch: 32, patience: 9, learning_rate: 0.01}",
    "train.num_candidates=24",
    "evaluate.num_samples=50",
)
EPOCHS = [("retriever", 0), ("retriever", 1), ("ranker", 0), ("ranker", 1)]
"""What a training under `TINY` goes through."""


def write_lines(path: Path) -> None:
    """All lines of about 150 customers with 4 to 12 invoices."""
    whole = pl.read_parquet(BUNDLED)
    bought = whole.filter(~pl.col("InvoiceNo").str.starts_with("C"))
    invoices = bought.group_by("CustomerID").agg(pl.col("InvoiceNo").n_unique())
    often = invoices.filter(pl.col("InvoiceNo").is_between(4, 12)).drop_nulls()
    some = often["CustomerID"].sort().gather_every(8)
    whole.filter(pl.col("CustomerID").is_in(some.implode())).write_parquet(path)


def arguments(lines: Path, runs: Path, *overrides: str) -> list[str]:
    """`--config` and `--set` of a job on the slice."""
    sets = (f"source.path={lines}", f"runs={runs}", *TINY, *overrides)
    return ["--config", str(CONFIG), *(f"--set={text}" for text in sets)]


def document(lines: Path, runs: Path, *overrides: str) -> Document:
    """The same as a document."""
    return load(CONFIG, [f"source.path={lines}", f"runs={runs}", *TINY, *overrides])
