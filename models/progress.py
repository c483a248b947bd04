"""How far a training has come."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

STAGES = ("retriever", "ranker")
Figures = dict[str, float | str]
"""What there is to say of an epoch."""


@dataclass
class Progress:
    """How far training has come; saved with every checkpoint."""

    stage: int = 0
    """Number of the stage going on; `len(STAGES)` when all is done."""
    epoch: int = 0
    """The next epoch of that stage."""
    best: float = float("-inf")
    """Best validation of the stage so far."""
    stale: int = 0
    """Epochs since then."""
    calibration: list[tuple[float, float]] = field(default_factory=list)
    """Scale and bias of each head, fitted on validation with the best ranker."""
    history: list[Figures] = field(default_factory=list)
    """The figures of every epoch."""
    step: int = 0
    """Steps done of that epoch."""
    loss: float = 0.0
    """Their losses, summed."""
    seconds: float = 0.0
    """What they took."""

    def save(self, path: Path) -> None:
        """Writes JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def load(path: Path) -> Progress:
        """Reads what `save` wrote.

        Raises:
            ValueError: when the file is missing, damaged or of another version.
        """
        try:
            return Progress(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: no progress of a training ({error})") from error
