"""`prepare --check`: what a mapping makes of some rows, and what is wrong with it."""

from jobs.checking.findings import Column, Findings, check

__all__ = ["Column", "Findings", "check"]
