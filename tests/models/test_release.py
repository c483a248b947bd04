import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from models import release as releases
from models.features import LEVELS
from serve.stages.memory import ReadMemory
from tests.worlds import MODEL, SERVING, World

WORLD = World()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WORLD.release(tmp_path_factory.mktemp("release") / "tiny")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edited(folder: Path, **changes: object) -> None:
    path = folder / releases.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_saved_is_loaded(saved: Path):
    loaded, made = releases.load(saved), WORLD.recommender()
    assert (loaded.model, loaded.serving) == (MODEL, SERVING)
    assert loaded.manifest.watermark_ms == WORLD.watermark_ms
    assert loaded.snapshot.is_file()
    for name in ("net", "ranker"):
        one = loaded.recommender.retriever.net if name == "net" else loaded.recommender.ranker
        other = made.retriever.net if name == "net" else made.ranker
        assert one.state_dict().keys() == other.state_dict().keys()
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def test_it_recommends_as_before(saved: Path):
    read = ReadMemory(
        None,  # type: ignore[arg-type]  # an empty memory needs no store
        catalogue=WORLD.catalogue,
        features=MODEL.features,
        memory=MODEL.memory,
    )
    user = read(now_ms=WORLD.watermark_ms).user
    loaded, made = releases.load(saved).recommender, WORLD.recommender()
    found, wanted = loaded.retriever.recommend(user), made.retriever.recommend(user)
    assert torch.equal(found.places, wanted.places)
    assert torch.equal(found.affinity, wanted.affinity)
    assert torch.equal(loaded.probabilities(user, found), made.probabilities(user, wanted))
    assert len(LEVELS) == 3


def test_the_id_names_the_files(saved: Path, tmp_path: Path):
    first = releases.read_manifest(saved).release_id
    other = releases.read_manifest(World(seed=2).release(tmp_path / "other")).release_id
    assert first != other
    assert len(first) == 12


def test_every_file_is_in_the_manifest(saved: Path):
    names = {path.name for path in saved.iterdir()} - {releases.MANIFEST}
    assert names == set(releases.read_manifest(saved).files)


@pytest.mark.parametrize("where", ["begin", "middle", "end"])
def test_a_flipped_byte_is_refused_in_every_file(folder: Path, where: str):
    for name in releases.read_manifest(folder).files:
        path = folder / name
        whole = path.read_bytes()
        place = {"begin": 0, "middle": len(whole) // 2, "end": len(whole) - 1}[where]
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=f"{name} is not the file that was released"):
            releases.load(folder)
        path.write_bytes(whole)
    releases.load(folder)


def test_a_missing_file_is_named(folder: Path):
    for name in releases.read_manifest(folder).files:
        (folder / name).rename(folder / "away")
        with pytest.raises(ValueError, match=f"{name} is missing"):
            releases.load(folder)
        (folder / "away").rename(folder / name)


def test_a_cut_or_longer_file_is_refused(folder: Path):
    path = folder / "ranker.safetensors"
    whole = path.read_bytes()
    for changed in (b"", whole[:-1], whole + b"\0"):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="is not the file"):
            releases.load(folder)


def test_another_digest_is_refused(folder: Path):
    edited(folder, model_digest="0" * 16)
    with pytest.raises(ValueError, match="made under model digest 0000"):
        releases.load(folder)


def test_a_config_of_another_version_is_refused(folder: Path):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model"]["ranker"]["wings"] = 2
    path.write_text(json.dumps(config))
    files = releases.read_manifest(folder).files
    edited(folder, files={**files, path.name: hashlib.sha256(path.read_bytes()).hexdigest()})
    with pytest.raises(ValueError, match="does not read"):
        releases.load(folder)


def test_an_unknown_format_is_refused(folder: Path):
    edited(folder, format=99)
    with pytest.raises(ValueError, match="has format 99, not 3"):
        releases.load(folder)


def test_a_damaged_manifest_is_refused(folder: Path):
    path = folder / releases.MANIFEST
    for text in ("", "{", "[]", "{}", path.read_text()[:-40]):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
            releases.load(folder)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="manifest"):
        releases.load(folder)


def test_no_release_says_what_to_do(tmp_path: Path):
    with pytest.raises(ValueError, match=r"python -m jobs\.release"):
        releases.load(tmp_path / "nothing")


def test_a_new_release_takes_the_place_of_the_old_as_a_whole(folder: Path):
    before = releases.read_manifest(folder).release_id
    (folder / "stray").write_text("of an older version")
    World(seed=2).release(folder)
    assert releases.read_manifest(folder).release_id != before
    assert not (folder / "stray").exists()
    releases.load(folder)


def test_a_release_that_fails_half_way_leaves_the_old_one(folder: Path):
    before = releases.load(folder).manifest

    class Broken(World):
        def write_snapshot(self, path: Path) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        Broken(seed=2).release(folder)
    assert releases.load(folder).manifest == before
