"""W&B without a network: figures, tables and artifacts are kept, and nothing of people is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.tracking import Artifact, NoTracker, Tracker, WandbTracker

ROOT = Path(__file__).parents[2]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    return tmp_path / "run"


def artifact(folder: Path) -> Artifact:
    folder.mkdir()
    (folder / "manifest.json").write_text('{"hash": 1}')
    (folder / "memory.parquet").write_bytes(b"what is remembered of Ann")
    return Artifact(
        name="release-shop",
        kind="release",
        folder=folder,
        facts={"prepared": "0123456789abcdef"},
        files=(folder / "manifest.json",),
        aliases=("abc",),
    )


def say(tracker: Tracker, folder: Path) -> None:
    tracker.log({"loss": 0.5})
    tracker.table("Memory ablation", [{"method": "all", "ndcg@10": 0.3}, {"method": "none"}])
    found = artifact(folder)
    tracker.artifact(found)
    tracker.artifact(found, used=True)
    tracker.close()


def test_a_run_without_network_keeps_all_that_it_was_told(offline: Path, tmp_path: Path):
    tracker = WandbTracker(
        name="shop", run_id="r1", folder=offline, config={"a": 1}, group="g1", job_type="release"
    )
    say(tracker, tmp_path / "release")
    (run,) = offline.glob("wandb/offline-run-*")
    (table,) = run.glob("files/media/table/*.table.json")
    told = json.loads(table.read_text())
    assert told["columns"] == ["method", "ndcg@10"]
    assert told["data"] == [["all", 0.3], ["none", None]]
    (record,) = run.glob("*.wandb")
    content = record.read_bytes()
    for text in (b"release-shop", b"0123456789abcdef", b"g1", b"loss"):
        assert text in content, text
    kept = [path for path in offline.rglob("*") if path.is_file()]
    assert any(path.read_bytes() == b'{"hash": 1}' for path in kept), "to be uploaded later"
    assert not any(b"remembered of Ann" in path.read_bytes() for path in kept)


UNREACHABLE = {
    "WANDB_MODE": "online",
    "WANDB_API_KEY": "x" * 40,
    "WANDB_BASE_URL": "http://127.0.0.1:9",
    "WANDB_INIT_TIMEOUT": "3",
}
TRACKING = """
import sys
from pathlib import Path
from jobs.tracking import WandbTracker
tracker = WandbTracker(name="shop", run_id="r2", folder=Path(sys.argv[1]), config={})
tracker.log({"loss": 0.5})
tracker.close()
"""


def test_a_server_that_is_not_there_ends_nothing(tmp_path: Path):
    """In a process of its own: W&B reads the environment once."""
    done = subprocess.run(
        [sys.executable, "-c", TRACKING, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **UNREACHABLE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "this run is kept offline" in done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_nothing_is_kept_without_wandb(tmp_path: Path):
    say(NoTracker(), tmp_path / "release")
    assert [path.name for path in tmp_path.iterdir()] == ["release"]
