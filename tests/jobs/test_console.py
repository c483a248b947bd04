"""What jobs share: exit codes, one-line errors, help that comes at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jobs import console, prepare


def code_of(command, *args):
    with pytest.raises(SystemExit) as caught:
        console.run(command, list(args))
    return caught.value.code


def test_a_value_error_is_a_line_and_code_2(capsys):
    def command() -> None:
        raise ValueError("source.path: [red]nothing[/red] there\nand more")

    assert code_of(command) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: source.path: [red]nothing[/red] there",
        "error: and more",
    ]


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def fault() -> None:
        raise RuntimeError("the ledger does not add up")

    with pytest.raises(RuntimeError):
        console.run(fault, [])

    def wrong() -> None:
        raise ValueError("x")

    monkeypatch.setenv("EBB_TRACEBACK", "1")
    with pytest.raises(ValueError, match="x"):
        console.run(wrong, [])


def test_done_is_code_0(capsys):
    def command(config: console.ConfigFile, overrides: console.Overrides = None) -> None:
        with console.step("count") as note:
            note(f"{config} {overrides}")
        console.table("sums", ["", "n"], [("rows", 12345), ("share", 0.25), ("ok", "yes")])

    assert code_of(command, "--config", "a.yaml", "--set", "b=1", "--set", "c.d=[2]") == 0
    shown = capsys.readouterr().out
    assert "a.yaml ['b=1', 'c.d=[2]']" in shown
    assert "12,345" in shown
    assert "0.25" in shown


def test_a_missing_option_is_code_2(capsys):
    assert code_of(prepare.main) == 2
    assert "--config" in capsys.readouterr().err


def test_help_shows_examples_and_loads_nothing_heavy():
    script = (
        "import sys\n"
        "from jobs import console, prepare\n"
        "try:\n    console.run(prepare.main, ['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'ray', 'torch', 'polars', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\n    python -m jobs.prepare --config configs/online_retail.yaml\n" in done.stdout


def test_a_wide_table_is_not_cut(capsys):
    figures = [f"{n}.{n:04}..{n}.{n + 1:04}" for n in range(12)]
    console.table("wide", ["method", *map(str, range(12))], [("another user's memory", *figures)])
    shown = capsys.readouterr().out
    assert "another user's memory" in shown
    assert all(figure in shown for figure in figures)
