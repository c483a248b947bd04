"""The space against its document: what a trial's values are, and the document they make."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import yaml

from configs.load import Document, check
from models.config import MS, parse_duration
from models.space import Parameter
from models.training import RUNNING

_APART = "what trials are measured on must be the same for all of them"
_SLOTS = "it says how a training runs, not what comes of it"
_NO_MATTER = "it changes nothing that a trial is measured by"
REFUSED = (
    dict.fromkeys(("name", "runs", "source", "log", "items", "requests"), _APART)
    | dict.fromkeys(("prepare", "arrange", "evaluate", "release", "tune"), _NO_MATTER)
    | dict.fromkeys((f"train.{name}" for name in RUNNING), _SLOTS)
)
"""Keys that no space may hold, and why."""


@dataclass(frozen=True)
class Axis:
    """One parameter with what its key says about it. Optuna sees raw values, a document others."""

    path: str
    parameter: Parameter
    is_whole: bool
    """Whether a range holds whole numbers only."""

    def suggest(self, trial: optuna.Trial) -> Any:
        """The raw value of a trial: a number, or a choice as text."""
        asked = self.parameter
        if asked.choices is not None:
            return trial.suggest_categorical(self.path, self._labels)
        low, high = self._raw(asked.low), self._raw(asked.high)
        if self.is_whole:
            step = 1 if asked.step is None else int(asked.step)
            return trial.suggest_int(self.path, int(low), int(high), step=step, log=asked.log)
        return trial.suggest_float(self.path, low, high, step=asked.step, log=asked.log)

    def value(self, raw: Any) -> Any:
        """A raw value as it stands in a document."""
        if self.parameter.choices is not None:
            return self.parameter.choices[self._labels.index(raw)]
        return f"{raw}{self._unit}" if self.parameter.is_duration else raw

    def raw(self, value: Any) -> Any:
        """The raw value for what stands in a document; None when it is not of the space."""
        asked = self.parameter
        if asked.choices is not None:
            told = [_told(choice) for choice in asked.choices]
            return self._labels[told.index(_told(value))] if _told(value) in told else None
        try:
            raw = self._raw(value)
        except (TypeError, ValueError):
            return None
        low, high = self._raw(asked.low), self._raw(asked.high)
        off = (raw - low) % (asked.step or 1) if self.is_whole or asked.step else 0
        return raw if low <= raw <= high and not off else None

    def samples(self) -> list[Any]:
        """Values to check: all choices, or both ends of the range."""
        if self.parameter.choices is not None:
            return list(self.parameter.choices)
        ends = (self._raw(self.parameter.low), self._raw(self.parameter.high))
        return [self.value(int(end) if self.is_whole else end) for end in ends]

    @property
    def _labels(self) -> list[Any]:
        """Choices as Optuna takes them: scalars as they are, all else as the YAML text of it."""
        choices = self.parameter.choices or ()
        if all(isinstance(choice, int | float | str | bool | None) for choice in choices):
            return list(choices)
        return [text_of(choice) for choice in choices]

    @property
    def _unit(self) -> str:
        """The unit of lengths of time: that of the lower end."""
        return str(self.parameter.low).lstrip("0123456789.")

    def _raw(self, bound: Any) -> Any:
        if not self.parameter.is_duration:
            if isinstance(bound, bool) or not isinstance(bound, int | float):
                raise TypeError(bound)
            return bound
        units = parse_duration(bound) / MS[self._unit]  # type: ignore[operator]  # a number now
        if units != int(units):
            raise ValueError(f"{self.path}: {bound} is no whole number of {self._unit}")
        return int(units)


def text_of(value: Any) -> str:
    """A value as YAML in one line: `[1d, 7d]`."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def _told(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def axes_of(document: Document, given: Mapping[str, Any]) -> list[Axis]:
    """The axes of a document's space, each checked against the document.

    Args:
        given: what the document says itself, as `configs.load.read` gives it.

    Raises:
        ValueError: naming the key, when there is none of that name, it cannot be searched, or a
            choice or an end of a range is not allowed there.
    """
    if not document.tune.space:
        raise ValueError(
            "tune.space is empty: name keys to search there, or give --space; "
            "configs/tune/ has examples"
        )
    found: list[Axis] = []
    for path, parameter in document.tune.space.items():
        refused = next((key for key in REFUSED if f"{path}.".startswith(f"{key}.")), None)
        if refused is not None:
            raise ValueError(f"tune.space: {path} cannot be searched: {REFUSED[refused]}")
        now = value_at(document, path)
        bounds = (parameter.low, parameter.high, parameter.step or 1)
        whole = all(isinstance(bound, int) for bound in bounds) and not isinstance(now, float)
        axis = Axis(path, parameter, whole or parameter.is_duration)
        found.append(axis)
        for value in axis.samples():
            told = {other: values[0] for other, values in parameter.when.items()}
            check(placed(given, document, {**told, path: value}), f"tune.space.{path}")
    return found


def value_at(document: Document, path: str) -> Any:
    """What a document says at a path, defaults included; None where there is nothing."""
    place: Any = document.model_dump(mode="json")
    for key in path.split("."):
        if isinstance(place, dict):
            place = place.get(key)
        elif isinstance(place, list) and key.isdecimal() and int(key) < len(place):
            place = place[int(key)]
        else:
            return None
    return place


def placed(
    given: Mapping[str, Any], document: Document, values: Mapping[str, Any]
) -> dict[str, Any]:
    """What a document says, with values at their paths.

    A section that `given` leaves out is written out first: the others of its values stay what they
    are in `document`, whose defaults may differ from those of the section by itself.

    Raises:
        ValueError: when a path leads into something that has no keys.
    """
    made = copy.deepcopy(dict(given))
    for path, value in values.items():
        *keys, last = path.split(".")
        place: Any = made
        for depth, key in enumerate(keys, start=1):
            head = ".".join(keys[:depth])
            if isinstance(place, dict) and place.get(key) is None:
                place[key] = value_at(document, head) or {}
            place = _inside(place, key, path)
        if isinstance(place, dict):
            place[last] = value
        else:
            _inside(place, last, path)
            place[int(last)] = value
    return made


def _inside(place: Any, key: str, path: str) -> Any:
    """What lies at one key of a mapping, or at one place of a list."""
    if isinstance(place, dict):
        return place[key]
    if isinstance(place, list) and key.isdecimal() and int(key) < len(place):
        return place[int(key)]
    size = f"a list of {len(place)}" if isinstance(place, list) else repr(place)
    raise ValueError(f"tune.space: {path}: there is no {key!r} in {size}")


def draw(trial: optuna.Trial, axes: list[Axis]) -> dict[str, Any]:
    """Draws a trial's values and returns them by path."""
    drawn: dict[str, Any] = {}
    for axis in axes:
        when = axis.parameter.when.items()
        if all(path in drawn and drawn[path] in wanted for path, wanted in when):
            drawn[axis.path] = axis.value(axis.suggest(trial))
    return drawn


def values_of(params: Mapping[str, Any], axes: list[Axis]) -> dict[str, Any]:
    """The values of a finished trial by path."""
    return {axis.path: axis.value(params[axis.path]) for axis in axes if axis.path in params}


def as_it_stands(document: Document, axes: list[Axis]) -> dict[str, Any] | None:
    """The raw values that the document has now; None when one of them is not of the space."""
    raw = {axis.path: axis.raw(value_at(document, axis.path)) for axis in axes}
    return None if any(value is None for value in raw.values()) else raw
