"""Why a trial failed, in a line."""

from __future__ import annotations

import traceback

from ray.exceptions import RayError, RayTaskError


def reason_of(error: BaseException) -> str:
    """The first cause of an error, below what Ray wraps it in."""
    cause = error
    for _ in range(20):  # a chain of causes might bite its tail
        failures = getattr(cause, "worker_failures", None) or {}
        inner = next(iter(failures.values()), None) or getattr(cause, "cause", None)
        if not isinstance(inner, BaseException) or inner is cause:
            break
        cause = inner
    said = str(cause).strip()
    lines = [line for line in said.splitlines() if line.strip()]
    # Where Ray cannot carry the error itself it carries its traceback, and that ends in the error.
    is_trace = isinstance(cause, RayTaskError) and type(cause) is RayTaskError
    line = (lines[-1] if is_trace else lines[0]) if lines else ""
    known = isinstance(cause, ValueError) or is_trace
    return line if known and line else f"{type(cause).__name__}: {line}"


def text_of_fault(error: RayError) -> str:
    """All that is known of an error."""
    return "".join(traceback.format_exception(error))
