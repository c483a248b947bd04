"""Text as tokens and hashed n-grams, so that a new word or a new item has a vector at once."""

from __future__ import annotations

import re
import unicodedata
import zlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[^\W_]+")
MAX_WORDS = 64


def words(text: str) -> list[str]:
    """Lower-case words and numbers, accents removed, in order; at most `MAX_WORDS`.

    >>> words("Crème-brûlée SET/6, T-Light")
    ['creme', 'brulee', 'set', '6', 't', 'light']
    """
    plain = unicodedata.normalize("NFKD", text[:4096]).casefold()
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return _WORD.findall(plain)[:MAX_WORDS]


def grams(text: str) -> list[str]:
    """Words, pairs of neighbours, and the letter trigrams of each word."""
    tokens = words(text)
    pairs = [f"{a} {b}" for a, b in pairwise(tokens)]
    trigrams = [f"#{w[i : i + 3]}" for t in tokens for w in [f"<{t}>"] for i in range(len(w) - 2)]
    return [*tokens, *pairs, *trigrams]


def hashed(text: str, buckets: int) -> NDArray[np.int64]:
    """`(n,)` the bucket of every gram, in `1..buckets - 1`; 0 is left for padding."""
    found = [1 + zlib.crc32(gram.encode()) % (buckets - 1) for gram in grams(text)]
    return np.asarray(found, np.int64)
