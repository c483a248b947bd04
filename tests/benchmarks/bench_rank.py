"""The ranker: its forward beside the matrix products it needs, its training beside FuxiCTR's DIN.

All in CPU time of one thread, in turn. DIN needs a Python of its own, named by
`EBB_FUXICTR_PYTHON`; `tests/benchmarks/fuxictr_din.py` says how to make it.
"""

from __future__ import annotations

import os

# Read when numpy and torch are imported.
os.environ["OMP_NUM_THREADS"] = "1"

import json
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.examples import Examples, Ints
from models.features import FeatureConfig, ItemSide
from models.memory import user_feature_names
from models.ranking.ranker import MemoryRanker, RankerConfig
from models.training import RankerBatch, StageConfig, optimizers, ranker_loss, take
from tests.benchmarks import feeds, table
from tests.benchmarks.fuxictr_din import BATCH, HISTORY, WIDTH

REPEATS, CALLS, STEPS = 5, 40, 4
NUM_CANDIDATES = 500
AT_ONCE = 64
"""Candidates of a request in training; or one candidate a request, as DIN has it."""
SHARED, ALONE, DIN = f"{BATCH // AT_ONCE} x {AT_ONCE}", f"{BATCH} x 1", "FuxiCTR DIN"


class Products(TorchDispatchMode):
    """Writes down every matrix product that is made, with its shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Callable[[], Tensor]] = []
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        shapes = [value.shape for value in args if isinstance(value, Tensor)]
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            self._add(getattr(torch, name), shapes)
        elif "scaled_dot_product" in name:
            heads, length, width = shapes[0][:-2].numel(), shapes[1][-2], shapes[0][-1]
            query = (heads, shapes[0][-2], width)
            self._add(torch.bmm, [query, (heads, width, length)])
            self._add(torch.bmm, [(*query[:2], length), (heads, length, width)])
        return func(*args, **(kwargs or {}))

    def _add(self, product: Callable[..., Tensor], shapes: list[Any]) -> None:
        self.made.append(partial(product, *(torch.randn(tuple(shape)) for shape in shapes)))
        left, right = shapes[-2:]
        self.flops += 2 * int(np.prod(left)) * right[-1]

    def again(self) -> None:
        """The same products and nothing else."""
        for product in self.made:
            product()


def ranker(examples: Examples, config: RankerConfig) -> MemoryRanker:
    torch.manual_seed(1)
    return MemoryRanker(
        ItemSide(examples.catalogue, examples.features),
        examples.features,
        config,
        num_long=len(user_feature_names(examples.memory)),
        num_heads=1,
    )


def batch_of(examples: Examples, rows: Ints, num: int, rng: np.random.Generator) -> RankerBatch:
    """What a step is given: the user sides are gathered, candidates and labels are random."""
    user, size = examples.user_side(rows), (len(rows), num)
    places = torch.from_numpy(rng.integers(1, len(examples.catalogue), size))
    return RankerBatch(
        user=user,
        places=places,
        popularity=examples.popularity.read(user.now_days, places),
        affinity=torch.zeros(size),
        labels=torch.from_numpy(rng.random((*size, 1)) < 0.1).float(),
        kept=torch.ones(len(rows)),
        positions=torch.full(size, -1),
        propensities=torch.full(size, float("nan")),
    )


def cpu(work: Callable[[], object], calls: int) -> float:
    """Seconds of CPU for one call."""
    work()
    begin = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - begin) / calls


def add_scoring(report: table.Report, examples: Examples) -> None:
    """One user, 500 candidates, in eval as it serves."""
    net = ranker(examples, RankerConfig()).eval()
    batch = batch_of(examples, np.asarray([150_000]), NUM_CANDIDATES, np.random.default_rng(1))
    given = batch.user, batch.places, batch.popularity, batch.affinity
    with torch.no_grad():
        net(*given)  # the table of item vectors is there before any request
        torch.backends.mha.set_fastpath_enabled(False)  # it would hide its products
        with Products() as products:
            net(*given)
        torch.backends.mha.set_fastpath_enabled(True)
    with torch.inference_mode():
        sides = {
            "forward": partial(cpu, partial(net, *given), CALLS),
            "products": partial(cpu, products.again, CALLS),
        }
        found = table.alternate(sides, REPEATS)
    ours, bare = ([1000 * s for s in found[name]] for name in sides)
    title = f"score {NUM_CANDIDATES} candidates, CPU ms"
    report.row(title, table.spread(ours, ".2f"), table.spread(bare, ".2f"), table.ratio(ours, bare))
    report.note(
        f"The {len(products.made)} matrix products of that forward are "
        f"{products.flops / 1e6:.0f} MFLOP; the other side makes them again, of random numbers of "
        "the same shapes, and nothing else. Goal: at most 1.5x."
    )


class Training:
    """Steps of our ranker over gathered batches of 4,096 candidates."""

    def __init__(self, examples: Examples, num: int) -> None:
        self.examples, self.num = examples, num
        self.net = ranker(examples, RankerConfig(width=WIDTH, hidden=256)).train()
        self.tools = optimizers(self.net, StageConfig())
        self.rng = np.random.default_rng(1)

    def step(self) -> None:
        rows = self.rng.integers(100_000, len(self.examples.requests), BATCH // self.num)
        batch = batch_of(self.examples, rows, self.num, self.rng)
        take(self.net, ranker_loss(self.net, batch, config=self.net.config), self.tools)

    def rate(self) -> float:
        """Samples per CPU second."""
        return BATCH / cpu(self.step, STEPS)


def din_rate() -> float:
    """Samples per CPU second of FuxiCTR's DIN in a process of its own."""
    script = Path(__file__).with_name("fuxictr_din.py")
    python = os.environ["EBB_FUXICTR_PYTHON"]
    told = subprocess.run(
        [python, str(script), str(STEPS)], capture_output=True, text=True, check=True
    )
    found = json.loads(told.stdout.splitlines()[-1])
    return float(found["samples"] / found["seconds"])


def add_training(report: table.Report, examples: Examples) -> None:
    """Samples per CPU second, feed included: width 16, history 50, batches of 4,096."""
    torch.set_num_threads(1)
    for day in np.unique(examples.requests.as_of_ms // 86_400_000).tolist():
        examples.popularity.step(day)  # each is made once, by whoever comes first
    sides = {name: Training(examples, num).rate for name, num in ((SHARED, AT_ONCE), (ALONE, 1))}
    if "EBB_FUXICTR_PYTHON" in os.environ:
        sides[DIN] = din_rate
    else:
        report.note("FuxiCTR's DIN was not run: EBB_FUXICTR_PYTHON names no Python.")
    found = table.alternate(sides, 3)
    theirs = found.get(DIN)
    for name, rates in found.items():
        title = name if name == DIN else f"ours, {name} candidates"
        cells = ("", "") if theirs is None else (table.spread(theirs), table.ratio(rates, theirs))
        report.row(f"{title}: samples/CPU-s", table.spread(rates), *cells)
    report.note(
        "DIN: embeddings of 16, attention [64], top [256, 128]; "
        "ours: self-attention, target attention, two crosses, top [256, 256]. Goal: at least 2x."
    )


def main() -> None:
    examples = feeds.world()
    long = FeatureConfig()
    whole = Examples(
        examples.requests,
        histories=examples.histories,
        catalogue=examples.catalogue,
        features=long,
        memory=examples.memory,
    )
    report = table.Report("the ranker, one thread, CPU time", ["", "ours", "beside", "ratio"])
    add_scoring(report, whole)
    report.line()
    assert examples.features.history == HISTORY
    add_training(report, examples)
    table.show(report)


if __name__ == "__main__":
    main()
