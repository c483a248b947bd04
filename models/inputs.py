"""What a training is given, looked at before hours are spent on it.

R requests, F numbers of the user level, P outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.catalogue import Catalogue

Bits = NDArray[np.uint8]
MOVE = "move requests.validate_from or requests.test_from"


def check_outcomes(labels: Mapping[str, Bits], heads: Sequence[str]) -> None:
    """Checks that every head has something to learn from, and to be chosen by.

    Args:
        labels: split to `(P,)` label bits of all its outcomes.

    Raises:
        ValueError: naming the label and the split.
    """
    for split, bits in labels.items():
        for head, name in enumerate(heads):
            if not ((bits >> head) & 1).any():
                raise ValueError(
                    f"requests.labels names {name!r}, which no request of the split {split!r} led "
                    f"to: leave it out, or {MOVE}"
                )


def check_user_level(long: NDArray[np.float32], names: Sequence[str]) -> None:
    """Checks the user level `(R, F)` of requests.

    Raises:
        ValueError: when it holds what is no number, naming the feature and the first row.
    """
    wrong = ~np.isfinite(long)
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        raise ValueError(
            f"the user level of memory is {long[row, place]} in {names[place]!r} of request "
            f"{row:,} ({int(wrong.any(1).sum()):,} of {len(long):,} requests are not finite): run "
            "`python -m jobs.prepare` again"
        )


def check_item_numbers(catalogue: Catalogue) -> None:
    """Checks the numeric fields of all items; one that is missing is allowed.

    Raises:
        ValueError: for an infinite one, naming the item, or a field that no item has.
    """
    for name in catalogue.config.numbers:
        values = catalogue.table[name].cast(pa.float64()).to_numpy()
        infinite = np.flatnonzero(np.isinf(values))
        if len(infinite):
            raise ValueError(
                f"the item number {name!r} of {catalogue.item_ids[infinite[0]]!r} is infinite "
                f"({len(infinite):,} items): correct the item table, or take {name!r} out of "
                "catalogue.numbers"
            )
        if len(values) and not np.isfinite(values).any():
            raise ValueError(
                f"no item has the number {name!r}: correct items.columns, or take it out of "
                "catalogue.numbers"
            )
