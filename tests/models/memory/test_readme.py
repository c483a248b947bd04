"""The README's examples run, and its list of files is complete."""

from __future__ import annotations

import doctest
from pathlib import Path

import models.memory

FOLDER = Path(models.memory.__file__).parent


def test_the_examples_run() -> None:
    failed, tried = doctest.testfile(str(FOLDER / "README.md"), module_relative=False)
    assert tried > 30
    assert failed == 0


def test_every_module_is_listed() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"}
    assert {name for name in names if f"\n{name} " not in text} == set()
