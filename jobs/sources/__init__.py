"""Logs of events in files: found by a path, cut into chunks, read a batch of rows at a time."""

from jobs.sources.chunking import Chunk, adapter, check_untouched, chunks, read, whole
from jobs.sources.locating import File, Source, locate
from jobs.sources.reading import Broken, Rows

__all__ = [
    "Broken",
    "Chunk",
    "File",
    "Rows",
    "Source",
    "adapter",
    "check_untouched",
    "chunks",
    "locate",
    "read",
    "whole",
]
