"""What the tasks of `evaluate` measure: each a method on the test requests, in its own process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

from configs.load import Document
from jobs.prepared import Prepared
from jobs.trained import recommender_of
from jobs.training import examples_of, rows_of
from models import ablation, evaluation
from models.config import format_duration
from models.events import POLARITY
from models.examples import Examples, Ints
from models.model import Recommender
from models.report import EvaluateConfig, Method
from models.retrieval import baselines

POPULARITY, FREQUENCY, ITEM_TO_ITEM = "popularity", "own frequency", "item to item"
TOWERS, FULL = "two towers alone", "Ebb"


def recent(config: EvaluateConfig) -> str:
    """The name of the baseline of recent popularity, such as `popularity, last 7d`."""
    return f"{POPULARITY}, last {format_duration(config.popularity_window)}"


def baselines_of(config: EvaluateConfig) -> tuple[str, ...]:
    """The names of all baselines."""
    return (POPULARITY, recent(config), FREQUENCY, ITEM_TO_ITEM)


@dataclass(frozen=True)
class Asked:
    """Whose requests are measured, and out of how many."""

    users: Ints
    """`(R,)` the user of each measured request, for the bootstrap."""
    num_requests: int
    """Requests of the split with an outcome to find."""
    num_users: int
    """Their users."""


class Bench:
    """A trained recommender and the requests of one split that have an outcome to find."""

    def __init__(self, document: Document, split: str) -> None:
        torch.set_num_threads(1)  # as many tasks as CPUs run at once
        self.document = document
        prepared = Prepared.open(document.folder / "prepared", document)
        self.examples: Examples = examples_of(prepared, document)
        self.target = document.model.heads.index(document.model.target)
        rows = rows_of(prepared, split)
        requests = self.examples.requests
        found = evaluation.with_target(requests, rows, self.target)
        if not len(found):
            raise ValueError(f"no request of split {split!r} has a {document.model.target!r}")
        config = document.evaluate
        self.rows: Ints = evaluation.of_some_users(
            requests, found, at_most=config.max_requests, seed=config.seed
        )
        self.wanted = evaluation.positives(requests, self.rows, self.target)
        users = requests.user
        self.asked = Asked(users[self.rows], len(found), len(np.unique(users[found])))

    @cached_property
    def recommender(self) -> Recommender:
        """With the weights that training kept."""
        return recommender_of(self.document, self.examples)

    @cached_property
    def retrieved(self) -> Ints:
        """`(R, C)` what retrieval brings with all memory: found once, ranked by every reading."""
        return evaluation.candidates(self.recommender, self.examples, self.rows)

    def baseline(self, name: str) -> Method:
        """One of `baselines_of`, with what had arrived before each request."""
        histories, requests = self.examples.histories, self.examples.requests
        order = np.argsort(histories.arrived, kind="stable")
        owner = np.repeat(np.arange(len(histories.users)), np.diff(histories.offsets))
        log = baselines.Interactions(
            user=owner[order],
            item=self.examples.places[order],
            ts=histories.arrived[order],
            positive=POLARITY[histories.interactions["action"][order]] > 0,
            num_items=len(self.examples.catalogue) - 1,
        )
        asked = baselines.Requests(requests.user[self.rows], requests.as_of_ms[self.rows])
        tops = [
            torch.from_numpy(block).topk(max(evaluation.CUTS)).indices
            for block in self._made(name, log).scores(asked)
        ]
        lists = evaluation.list_metrics(torch.cat(tops).numpy(), self.wanted)
        return Method(name, lists)

    def _made(self, name: str, log: baselines.Interactions) -> baselines.Baseline:
        first = int(self.examples.requests.as_of_ms[self.rows].min())
        config = self.document.evaluate
        half_life = float(config.item_to_item_half_life)
        makers = {
            POPULARITY: lambda: baselines.Popularity(log),
            recent(config): lambda: baselines.Popularity(log, window_ms=config.popularity_window),
            FREQUENCY: lambda: baselines.RepeatFrequency(log),
            ITEM_TO_ITEM: lambda: baselines.ItemToItem(
                log, fit_until=first, half_life_ms=half_life
            ),
        }
        made = makers[name]()
        return baselines.Unseen(made, log) if config.drop_seen and name != FREQUENCY else made

    def towers(self) -> Method:
        """The retriever's own ranking of the whole catalogue."""
        top = evaluation.nearest(
            self.recommender.retriever, self.examples, self.rows, max(evaluation.CUTS)
        )
        return Method(TOWERS, evaluation.list_metrics(top, self.wanted))

    def reading(self, name: str) -> Method:
        """Retrieval and ranking under one reading of memory.

        List metrics are those of the slate that would be shown. Ranking metrics are of the same
        candidates for every reading, those that full memory retrieves, so that they compare.
        """
        recommender = self.recommender
        memory = self.document.memory
        read = ablation.reading(self.examples, name, rows=self.rows, memory=memory)
        own = evaluation.scored(recommender, self.examples, self.rows, reading=read)
        top = evaluation.slates(own, self.target)
        lists = evaluation.list_metrics(top, self.wanted)
        lists["recall@retrieved"] = evaluation.retrieved(top, self.wanted)
        shared = own
        if name != "all":
            shared = evaluation.scored(
                recommender, self.examples, self.rows, reading=read, candidates=self.retrieved
            )
        return Method(name, lists, evaluation.ranking_metrics(shared, recommender, self.target))


@lru_cache(maxsize=2)
def _bench(document_json: str, split: str) -> Bench:
    return Bench(Document.model_validate_json(document_json), split)


def measure(document_json: str, split: str, kind: str, name: str) -> Method:
    """One task: `kind` is a method of `Bench`. A process loads data and weights once."""
    bench = _bench(document_json, split)
    found: dict[str, Any] = {
        "baseline": bench.baseline,
        "reading": bench.reading,
        "towers": lambda name: bench.towers(),
    }
    method: Method = found[kind](name)
    return method


def asked_of(document_json: str, split: str) -> Asked:
    """One task: what is measured. A worker runs it, so that the driver never loads the data."""
    return _bench(document_json, split).asked
