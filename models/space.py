"""What `tune` searches, and how: the classes of a document's `tune` section."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from models.config import Config, parse_duration


def _bound(value: object) -> object:
    """A number, or a length of time as text. YAML reads `5e-4` as a text."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, or a length of time such as 36h")
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        parse_duration(value)
        return value.replace(" ", "")


def _choice(value: object) -> object:
    """A choice as it is; `1e-3`, which YAML reads as a text, as the number."""
    is_number = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
    return float(str(value)) if is_number else value


Bound = Annotated[int | float | str, BeforeValidator(_bound)]


class Parameter(Config):
    """The values that one key of the document may take: a range, or a list of choices."""

    low: Bound | None = None
    """The least value; a length of time is written as one: `6h`."""
    high: Bound | None = None
    """The greatest value. Of two whole numbers all between are whole, unless the key itself holds a
    fraction; of two lengths of time all between are whole in the unit of the lower one."""
    log: bool = False
    """Whether to draw evenly by magnitude."""
    step: float | int | None = Field(None, gt=0)
    """The distance of values, from `low` on."""
    choices: tuple[Annotated[Any, BeforeValidator(_choice)], ...] | None = Field(None, min_length=1)
    """What may stand there: texts, numbers, lists, whole sections."""
    when: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Other keys of the space, declared before this one, to those of their choices with which this
    one is asked for at all."""

    @property
    def is_duration(self) -> bool:
        """Whether the range is one of lengths of time."""
        return isinstance(self.low, str)

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        if (self.choices is None) == (self.low is None) or (self.low is None) != (
            self.high is None
        ):
            raise ValueError("give low and high, or choices")
        if self.choices is not None:
            return self._chosen(self.choices)
        if self.is_duration != isinstance(self.high, str):
            raise ValueError("low and high: both as numbers, or both as lengths of time")
        low, high = (parse_duration(bound) for bound in (self.low, self.high))
        if not low < high:  # type: ignore[operator]  # numbers both
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.step is not None or not low > 0):  # type: ignore[operator]
            raise ValueError("log: goes with a low above 0 and without a step")
        return self

    def _chosen(self, choices: tuple[Any, ...]) -> Parameter:
        if self.log or self.step is not None:
            raise ValueError("log and step belong to a range, not to choices")
        texts = [json.dumps(choice, sort_keys=True, default=str) for choice in choices]
        if len(set(texts)) < len(texts):
            raise ValueError("choices: one is there twice")
        return self


class SamplerConfig(Config):
    """How values are drawn."""

    kind: Literal["tpe", "random"] = "tpe"
    """`tpe`: from what did well so far, all values together (multivariate tree-structured Parzen
    estimator; Falkner et al., BOHB, ICML 2018), as if trials under way would come out badly."""
    startup: int = Field(10, ge=0)
    """Trials at random before it."""
    seed: int = 1


class PrunerConfig(Config):
    """When a trial that does badly is stopped. All count validated epochs."""

    kind: Literal["median", "successive_halving", "threshold", "none"] = "median"
    """`median`: worse than half of the trials at the same epoch. `successive_halving`: not among
    the best of those that came as far (Li et al., MLSys 2020). `threshold`: below `lower`."""
    startup: int = Field(5, ge=0)
    """Trials that must have come to their end first (median)."""
    warmup: int = Field(1, ge=0)
    """Epochs, over both stages, that every trial may have before it can be stopped."""
    reduction: int = Field(3, ge=2)
    """One in so many goes on (successive halving)."""
    lower: float | None = None
    """ndcg@10 that every epoch after the warm-up must reach (threshold)."""

    @model_validator(mode="after")
    def _lower_is_given(self) -> PrunerConfig:
        if (self.kind == "threshold") != (self.lower is not None):
            raise ValueError("kind threshold needs lower, and only that kind has it")
        return self


class TuneConfig(Config):
    """One search."""

    space: dict[str, Parameter] = Field(default_factory=dict)
    """Keys of the document, such as `retriever.width`, to what may stand there. A number names a
    place in a list: `memory.view.half_lives.0`."""
    stage: Literal["retriever", "ranker"] = "ranker"
    """Whose validation ndcg@10 is the quality; with `retriever` no ranker is trained."""
    objectives: tuple[Literal["quality", "cost"], ...] = ("quality",)
    """`[quality, cost]` looks for the best exchanges of both (`models.cost`); no trial is pruned
    then, for which of two unfinished trials is the better one has no answer."""
    trials: int = Field(20, gt=0)
    """Trials of the whole study, those before a `--resume` included."""
    concurrent: int | None = Field(None, gt=0)
    """Trials at once; None: as many as Ray has CPUs for."""
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()

    @property
    def is_pruned(self) -> bool:
        """Whether trials may be stopped early."""
        return self.pruner.kind != "none" and len(self.objectives) == 1

    @model_validator(mode="after")
    def _fits_together(self) -> TuneConfig:
        if self.objectives not in {("quality",), ("quality", "cost")}:
            raise ValueError("objectives: [quality] or [quality, cost]")
        for one, other in combinations(self.space, 2):
            if f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}."):
                raise ValueError(f"space: {one} and {other} set the same value")
        for path, parameter in self.space.items():
            before = list(self.space)[: list(self.space).index(path)]
            for other, values in parameter.when.items():
                choices = self.space[other].choices if other in before else None
                if choices is None or any(value not in choices for value in values):
                    raise ValueError(
                        f"space: {path}: when: {other} must be a key of the space, declared "
                        f"before, and {list(values)} some of its choices"
                    )
        return self
