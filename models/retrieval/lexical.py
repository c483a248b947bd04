"""BM25 over the catalogue's texts, by tantivy. Queries are built as terms, never parsed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tantivy
from numpy.typing import NDArray

from models.text import words


class LexicalIndex:
    """The texts of places `1..I-1`, in memory, by the words of `models.text`."""

    def __init__(self, texts: Sequence[str]) -> None:
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("place", fast=True)
        builder.add_text_field("text", tokenizer_name="whitespace", index_option="freq")
        self._schema = builder.build()
        self._index = tantivy.Index(self._schema)
        writer = self._index.writer(heap_size=15_000_000, num_threads=1)
        for place, text in enumerate(texts):
            if place:
                document = tantivy.Document(text=" ".join(words(text)))
                document.add_unsigned("place", place)
                writer.add_document(document)
        writer.commit()
        self._index.reload()
        self._num_places = len(texts)

    def search(
        self, query: str, count: int, *, allowed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """`(n,)` places that share a word with the query, best first, ties by place; n <= count.

        Args:
            allowed: `(I,)`; with it every match is looked at, so that none is lost to the filter.
        """
        terms = [
            (tantivy.Occur.Should, tantivy.Query.term_query(self._schema, "text", word, "freq"))
            for word in dict.fromkeys(words(query))
        ]
        if not terms or not count:  # tantivy takes no limit of 0
            return np.zeros(0, np.int64)
        searcher = self._index.searcher()
        limit = count if allowed is None else self._num_places
        hits = searcher.search(tantivy.Query.boolean_query(terms), limit=limit, count=False).hits
        found = np.asarray(searcher.fast_field_values("place", [a for _, a in hits]), np.int64)
        scores = np.asarray([score for score, _ in hits])
        places = found[np.lexsort((found, -scores))]
        return (places if allowed is None else places[allowed[places]])[:count]
