"""`models.events.key64` of a whole column at once, for batches.

The hash is XXH3-64, whose values its specification fixes: a plugin of Polars and the small package
that `models.events` uses agree on every text, on every machine.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa
from numpy.typing import NDArray


def keys_of(column: pa.Array | pa.ChunkedArray | pl.Series) -> NDArray[np.uint64]:
    """`(N,)` what `keys64` gives for texts, 0 for null, some sixty times as fast."""
    texts = column if isinstance(column, pl.Series) else pl.Series(column)
    hashed = pl.DataFrame({"text": texts.cast(pl.String)}).select(
        pl.when(pl.col("text").is_null())
        .then(pl.lit(0, pl.UInt64))
        .otherwise(plh.col("text").nchash.xxh3_64().clip(1))  # 0 stands for "none"
    )
    keys: NDArray[np.uint64] = hashed.to_series().to_numpy()
    return keys
