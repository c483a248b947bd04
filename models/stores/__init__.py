"""Where memory is kept: one protocol and its implementations.

`LmdbStore` keeps everything in a folder. `write_snapshot` is what a batch build and a store share;
`export` shows a person all that a store holds about them.
"""

from models.stores.export import export
from models.stores.lmdb import LmdbStore
from models.stores.protocol import (
    Clock,
    MemoryStore,
    Outcome,
    Receipt,
    StoreConfig,
    StoreFullError,
    StoreUnavailableError,
    wall_clock,
)
from models.stores.snapshot import Snapshot, SnapshotInfo, SnapshotRow, write_snapshot

__all__ = [
    "Clock",
    "LmdbStore",
    "MemoryStore",
    "Outcome",
    "Receipt",
    "Snapshot",
    "SnapshotInfo",
    "SnapshotRow",
    "StoreConfig",
    "StoreFullError",
    "StoreUnavailableError",
    "export",
    "wall_clock",
    "write_snapshot",
]
