"""Documents: what they compose, how values are overridden, and how mistakes are told."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from configs.load import Document, load

ROOT = Path(__file__).parents[2]
PLAIN = """
name: shop
source:
  path: events.csv
  columns: {user_id: who, ts: when}
  action: purchase
requests:
  labels: [click, purchase]
  validate_from: 2020-01-01
  test_from: 2020-02-01
"""


@pytest.fixture
def document(tmp_path):
    """A function that writes a document, with text added, and gives its path."""

    def write(text=PLAIN, more=""):
        path = tmp_path / "shop.yaml"
        path.write_text(text + more)
        return path

    return write


def test_defaults_and_derived_values(document):
    loaded = load(document())
    assert loaded.folder == Path("runs/shop")
    assert loaded.requests.target == "purchase"
    assert loaded.requests.test_from == datetime(2020, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_documents_of_the_project_load(path):
    if "source" not in yaml.safe_load(path.read_text()):
        pytest.skip("no document of a run")
    loaded = load(path)
    assert loaded.name == path.stem
    again = Document.model_validate(loaded.model_dump(mode="json"))
    assert again == loaded, "what a run saves is a document again"


def test_values_are_overridden_with_their_yaml_type(document):
    loaded = load(
        document(),
        [
            "runs=/elsewhere",
            "requests.labels=[view, hire]",
            "requests.test_from=2020-03-01",
            "memory.view.fast=3d",
            "prepare.num_partitions=2",
            "source.columns.item_id=sku",
        ],
    )
    assert str(loaded.folder) == "/elsewhere/shop"
    assert loaded.requests.labels == ("view", "hire")
    assert loaded.requests.test_from == datetime(2020, 3, 1, tzinfo=UTC)
    assert loaded.memory.view.fast == 3 * 86_400_000
    assert loaded.prepare.num_partitions == 2
    assert loaded.source.columns == {"user_id": "who", "ts": "when", "item_id": "sku"}


def test_the_number_of_interests_is_said_once(document):
    loaded = load(document(), ["memory.state.num_interests=16"])
    assert loaded.catalogue.num_interests == 16
    with pytest.raises(ValueError, match=r"catalogue\.num_interests is 8, memory\.state"):
        load(document(), ["catalogue.num_interests=8"])


WRONG = [
    (
        "\ncolours: 1\n",
        [],
        r"shop\.yaml: colours: unknown key; .*allowed: name, runs, source, log, items",
    ),
    ("", ["source.colums={}"], r"--set source\.colums: unknown key; did you mean 'columns'\?"),
    ("", ["requets.per=event"], r"--set requets\.per: requets: unknown key; .*'requests'"),
    ("", ["memory.state.levels=[{hop: 1h, kep: 2}]"], r"kep: unknown key; did you mean 'keep'"),
    ("", ["memory.view.fast=3 weeks"], r"--set memory\.view\.fast: '3 weeks' is no duration"),
    ("", ["source.columns.colour=c"], r"source\.columns: colour: no column of the event"),
    ("", ["prepare.num_partitions=many"], r"num_partitions: .*integer.* \(given 'many'\)"),
    ("", ["name=a/b"], r"--set name: .*pattern"),
    ("", ["noequals"], r"--set noequals: write it as key\.key=value"),
    ("", ["source.path.x=1"], r"--set source\.path\.x: source\.path has no keys"),
    ("", ["runs=[1"], r"--set runs=\[1: not YAML"),
    ("", ["requests.context=[city]", "source.columns.context_town=t"], r"context_town: name it"),
    ("", ["catalogue.numbers=[price]"], r"catalogue names price: say in items\.columns"),
    ("\nname: twice\n", [], r"shop\.yaml: not YAML: the key 'name' comes twice .*line"),
    ("\n  - [", [], r"shop\.yaml: not YAML: .*line"),
]


@pytest.mark.parametrize(("more", "overrides", "message"), WRONG)
def test_a_mistake_is_told_with_its_place(document, more, overrides, message):
    with pytest.raises(ValueError, match=message):
        load(document(more=more), overrides)


def test_what_is_missing_is_told(document, tmp_path):
    with pytest.raises(ValueError, match=r"shop\.yaml: source: is missing\n.*requests: is missing"):
        load(document("name: shop"))
    with pytest.raises(ValueError, match="mapping is needed at the top"):
        load(document("- a\n- b\n"))
    with pytest.raises(ValueError, match=r"none\.yaml: there is no such file"):
        load(tmp_path / "none.yaml")


def test_nothing_in_a_document_is_executed(document):
    with pytest.raises(ValueError, match="not YAML: could not determine a constructor"):
        load(document(more="\nruns: !!python/object/apply:os.getcwd []\n"))


def test_one_value_of_a_stage_leaves_its_others_alone(document):
    plain, changed = load(document()), load(document(), ["train.ranker.learning_rate=0.5"])
    expected = plain.train.ranker.model_copy(update={"learning_rate": 0.5})
    assert changed.train.ranker == expected
    assert changed.train.retriever == plain.train.retriever
