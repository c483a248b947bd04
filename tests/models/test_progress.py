"""Progress survives a round trip; what is none is refused."""

import numpy as np
import pytest

from models.progress import Progress


def test_progress_is_what_it_was_after_a_round_trip(tmp_path):
    epochs = [{"stage": "ranker", "loss": 1 / 3}]
    for progress in (
        Progress(),
        Progress(1, 2, 0.1 + 0.2, 1, [(0.1, -3.0)], epochs, step=7, loss=0.1 + 0.7, seconds=3.5),
    ):
        progress.save(tmp_path / "progress.json")
        loaded = Progress.load(tmp_path / "progress.json")
        assert np.array_equal(loaded.calibration, progress.calibration)
        loaded.calibration = progress.calibration  # pairs come back as lists
        assert loaded == progress


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"stage": 0, "who": 1}', None])
def test_what_is_no_progress_is_refused_by_name(tmp_path, text):
    path = tmp_path / "progress.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"progress.json: no progress of a training"):
        Progress.load(path)
