"""`--help` of every verb: at once, with examples, and without loading what a job needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

VERBS = ("prepare", "train", "tune", "evaluate", "release")
SCRIPT = """
import runpy, sys
sys.argv = ["-m", "--help"]
try:
    runpy.run_module("jobs.{verb}", run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code
heavy = {{"ray", "torch", "wandb", "polars", "pyarrow", "numpy", "matplotlib", "optuna"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
raise SystemExit(code)
"""


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_and_loads_nothing_heavy(verb):
    command = [sys.executable, "-c", SCRIPT.format(verb=verb)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Usage: python -m jobs.{verb} " in done.stdout
    assert f"\n    python -m jobs.{verb} --config configs/online_retail.yaml\n" in done.stdout
    assert "--set" in done.stdout
