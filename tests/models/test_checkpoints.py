"""Weights and optimizers survive a round trip; what does not fit is refused; nothing executes."""

import ast
import copy
from pathlib import Path

import pytest
import torch

from models.checkpoints import load_optimizers, load_weights, save_optimizers, save_weights
from models.training import optimizers, take
from tests.models.small import STAGE, batch_of, planted, towers

ROOT = Path(__file__).parents[2]
EXAMPLES = planted().examples
BATCHES = [batch_of(EXAMPLES, [n, n + 1], negatives=[n % 30 + 1, 7]) for n in range(4)]


def trained(batches, *, net=None, tools=None):
    net = net or towers()
    tools = tools or optimizers(net, STAGE)
    return net, tools, [take(net, net(batch), tools).loss for batch in batches]


def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened(tmp_path):
    net, tools, _ = trained(BATCHES[:2])
    save_weights(net, tmp_path / "net.safetensors")
    save_optimizers(tools, tmp_path / "optimizers.safetensors")
    _, _, expected = trained(BATCHES[2:], net=net, tools=tools)
    losses = {}
    for name in ("restored", "fresh"):
        other = towers(seed=9)
        load_weights(other, tmp_path / "net.safetensors")
        again = optimizers(other, STAGE)
        if name == "restored":
            load_optimizers(again, tmp_path / "optimizers.safetensors")
        _, _, losses[name] = trained(BATCHES[2:], net=other, tools=again)
        same = [
            torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True)
        ]
        assert all(same) == (name == "restored")
    assert losses["restored"] == expected
    assert losses["fresh"] != expected, "moments matter, or this would show nothing"


def test_state_of_both_optimizers_is_stored_whole(tmp_path):
    net, tools, _ = trained(BATCHES)
    save_optimizers(tools, tmp_path / "file")
    again = optimizers(net, STAGE)
    load_optimizers(again, tmp_path / "file")
    for one, other in zip(tools, again, strict=True):
        assert one.state_dict()["state"].keys() == other.state_dict()["state"].keys() != set()
        for number, state in one.state_dict()["state"].items():
            found = other.state_dict()["state"][number]
            assert found.keys() == state.keys()
            for name, value in state.items():
                assert type(found[name]) is type(value)
                assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value))


def test_weights_are_the_weights(tmp_path):
    net = towers()
    save_weights(net, tmp_path / "file")
    other = towers(seed=2)
    load_weights(other, tmp_path / "file")
    for name, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


@pytest.mark.parametrize("damage", [b"", b"not a safetensors file", b"\xff" * 64, "half", None])
def test_a_missing_or_damaged_file_is_refused_by_name(tmp_path, damage):
    net, tools, _ = trained(BATCHES[:1])
    paths = {load_weights: tmp_path / "net", load_optimizers: tmp_path / "optimizers"}
    save_weights(net, paths[load_weights])
    save_optimizers(tools, paths[load_optimizers])
    for load, path in paths.items():
        whole = path.read_bytes()
        path.unlink()
        if damage is not None:
            path.write_bytes(whole[: len(whole) // 2] if damage == "half" else damage)
        with pytest.raises(ValueError, match=path.name):
            load(net if load is load_weights else optimizers(net, STAGE), path)


def test_what_is_of_another_network_is_refused(tmp_path):
    net, tools, _ = trained(BATCHES[:1])
    save_weights(net, tmp_path / "net")
    save_optimizers(tools, tmp_path / "optimizers")
    wider = towers(width=16)
    with pytest.raises(ValueError, match="do not fit this configuration"):
        load_weights(wider, tmp_path / "net")
    with pytest.raises(ValueError, match="another network"):
        load_optimizers(optimizers(wider, STAGE), tmp_path / "optimizers")
    single = [torch.optim.AdamW(net.out.parameters())]
    with pytest.raises(ValueError, match="another network"):
        load_optimizers(single, tmp_path / "optimizers")
    renamed = torch.nn.Sequential(copy.deepcopy(net))
    with pytest.raises(ValueError, match="do not fit this configuration"):
        load_weights(renamed, tmp_path / "net")


EXECUTING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {("torch", "load"), ("torch", "save")}  # ruff sees to yaml.load (S506)


def executing(source):
    """What a source uses that could execute a file's content: imports, loaders, arguments."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in EXECUTING]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {(node.module, alias.name) for alias in node.names}
            found += [node.module] if node.module.split(".")[0] in EXECUTING else []
            found += [".".join(pair) for pair in names & CALLS]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            pair = (node.value.id, node.attr)
            found += [".".join(pair)] if pair in CALLS or node.attr == "read_pickle" else []
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found += [] if getattr(node.value, "value", None) is False else ["allow_pickle"]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import a, joblib.x as b",
        "def f():\n    from pickle import loads",
        "from torch import load",
        "net = torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
    ],
)
def test_the_scan_below_sees_what_it_looks_for(source):
    assert len(executing(source)) == 1
    assert executing("import safetensors.torch\nnp.load(p, allow_pickle=False)") == []


@pytest.mark.parametrize("folder", ["models", "configs", "jobs", "serve"])
def test_no_source_uses_a_format_that_can_execute_code(folder):
    sources = sorted((ROOT / folder).rglob("*.py"))
    assert len(sources) > 1
    found = {str(path): executing(path.read_text()) for path in sources}
    assert {path: names for path, names in found.items() if names} == {}
