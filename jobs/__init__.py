"""One runnable module per verb: thin Ray shells over the library."""
