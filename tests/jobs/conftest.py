"""What tests of several jobs share: a slice of the bundled data, prepared and trained once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.load import Document
from tests.jobs import retail


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file of the slice."""
    path = tmp_path_factory.mktemp("retail") / "lines.parquet"
    retail.write_lines(path)
    return path


@pytest.fixture(scope="session")
def prepared(ray_cluster: None, lines: Path) -> Document:
    """A run with its `prepared` folder; to be copied, not written to."""
    from jobs.prepare import prepare

    document = retail.document(lines, lines.parent / "prepared")
    prepare(document)
    return document


@pytest.fixture(scope="session")
def trained(prepared: Document, lines: Path) -> Document:
    """A run that was prepared and trained, with W&B, without a break."""
    from jobs.train import train

    document = retail.document(lines, lines.parent / "trained")
    shutil.copytree(prepared.folder, document.folder)
    train(document)
    return document


@pytest.fixture
def fresh(prepared: Document, tmp_path: Path) -> Callable[..., list[str]]:
    """Gives the arguments of a job on a prepared run of the test's own, in `tmp_path`."""
    shutil.copytree(prepared.folder, tmp_path / prepared.name)
    return lambda *overrides: retail.arguments(Path(prepared.source.path), tmp_path, *overrides)
