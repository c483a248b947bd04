"""What the tasks of `evaluate` measure: each a method on the test requests, in its own process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from configs.load import Document
from jobs.beside import run_at, same_requests
from jobs.prepared import Prepared
from jobs.trained import recommender_of
from jobs.training import examples_of, rows_of
from models import ablation, evaluation
from models.config import format_duration
from models.events import ACTIONS, POLARITY
from models.examples import Examples, Ints
from models.metrics import beyond
from models.model import Recommender
from models.report import EvaluateConfig, Method, Trait
from models.retrieval import als, baselines
from models.slices import traits

POPULARITY, FREQUENCY, ITEM_TO_ITEM = "popularity", "own frequency", "item to item"
ALS = "ALS"
FOLLOWERS, TOWERS, FULL = "what follows what", "Ebb's retriever alone", "Ebb"


def recent(config: EvaluateConfig) -> str:
    """The name of the baseline of recent popularity, such as `popularity, last 7d`."""
    return f"{POPULARITY}, last {format_duration(config.popularity_window)}"


def baselines_of(document: Document) -> tuple[str, ...]:
    """The names of all baselines that make sense of a document and can run here."""
    timed = document.requests.split == "time"
    names = [POPULARITY, *([recent(document.evaluate)] if timed else ())]
    if timed or not drops_seen(document):
        names.append(FREQUENCY)
    return (*names, ITEM_TO_ITEM, *([ALS] if als.is_there() else ()))


def drops_seen(document: Document) -> bool:
    """Whether baselines leave out what a user met before."""
    own = document.evaluate.drop_seen
    return document.candidates.drop_seen if own is None else own


@dataclass(frozen=True)
class Asked:
    """Whose requests are measured, out of how many, and what is known of each."""

    users: Ints
    """`(R,)` the user of each measured request, for the bootstrap."""
    num_requests: int
    """Requests of the split with an outcome to find."""
    num_users: int
    """Their users."""
    traits: dict[Trait, Ints]
    """`(R,)` the slice of each by each trait."""
    digest: str
    """Of all prepared requests."""


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
            raise ValueError(_nothing_to_find(self.examples, document, split, len(rows)))
        config = document.evaluate
        self.rows: Ints = evaluation.of_some_users(
            requests, found, at_most=config.max_requests, seed=config.seed
        )
        self.wanted = evaluation.positives(requests, self.rows, self.target)
        self._found, self._digest = found, same_requests(prepared.requests)

    @cached_property
    def asked(self) -> Asked:
        """What is measured.

        Raises:
            ValueError: when it is too little to say anything, or a run beside has other requests.
        """
        users = self.examples.requests.user
        if len(np.unique(users[self.rows])) < 2:
            raise ValueError(
                "evaluate: all requests measured are of one user, and intervals are by redrawing "
                "users; raise evaluate.max_requests, or give the split more time"
            )
        for name in self.document.evaluate.beside:
            self._other(name)  # what speaks against it is told before anything is measured
        names = self.document.evaluate.slices
        return Asked(
            users=users[self.rows],
            num_requests=len(self._found),
            num_users=len(np.unique(users[self._found])),
            traits=traits(self.examples, self.rows, self.wanted, self.trained, names),
            digest=self._digest,
        )

    @property
    def _first(self) -> int:
        """The moment of the first request measured: what is learned of all is from before it."""
        return int(self.examples.requests.as_of_ms[self.rows].min())

    @cached_property
    def trained(self) -> Ints:
        """`(I,)` how often each place occurs in what trains."""
        begin = self.document.requests.validate_from
        until = 0 if begin is None else round(begin.timestamp() * 1000)
        return evaluation.trained_counts(self.examples, until)

    @cached_property
    def recommender(self) -> Recommender:
        """With the weights that training kept."""
        return recommender_of(self.document, self.examples, until_ms=self._first)

    @cached_property
    def retrieved(self) -> Ints:
        """`(R, C)` what retrieval brings with all memory: found once, ranked by every reading."""
        return evaluation.candidates(self.recommender, self.examples, self.rows)

    @cached_property
    def vectors(self) -> NDArray[np.float32] | None:
        """`(I, D)` by which items are alike: their categories, or what the retriever learned.

        None where there is neither.
        """
        kinds = evaluation.kinds(self.examples)
        if kinds is not None:
            return kinds
        try:
            vectors = self.recommender.retriever.index.vectors
        except ValueError:  # not trained, or not on this: baselines are measured all the same
            return None
        found: NDArray[np.float32] = torch.nn.functional.normalize(vectors, dim=1).numpy()
        return found

    def method(self, name: str, top: Ints, **ranking: float) -> Method:
        """A method of rankings `(R, K)`."""
        first = top[:, : evaluation.CUTS[0]]
        lists = evaluation.list_metrics(top, self.wanted)
        told = {"novelty@10": beyond.novelty(first, beyond.self_information(self.trained))}
        if self.vectors is not None:
            told["diversity@10"] = beyond.diversity(first, self.vectors)
        coverage = beyond.coverage(first, len(self.examples.catalogue))
        return Method(name, lists, ranking, told, coverage)

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
        trains = self.examples.trains
        # Without a common time what is learned of all is what trains, known before every request.
        fit = log if trains is None else log.some(trains[order]).at(0)
        asked = baselines.Requests(requests.user[self.rows], requests.as_of_ms[self.rows])
        tops = [
            _best(block, max(evaluation.CUTS)) for block in self._made(name, log, fit).scores(asked)
        ]
        return self.method(name, np.concatenate(tops))

    def _made(
        self, name: str, log: baselines.Interactions, fit: baselines.Interactions
    ) -> baselines.Baseline:
        first, config = self._first, self.document.evaluate
        half_life = float(config.item_to_item_half_life)
        makers: dict[str, Callable[[], baselines.Baseline]] = {
            POPULARITY: lambda: baselines.Popularity(fit),
            recent(config): lambda: baselines.Popularity(fit, window_ms=config.popularity_window),
            FREQUENCY: lambda: baselines.RepeatFrequency(log, fit=fit),
            ITEM_TO_ITEM: lambda: baselines.ItemToItem(
                log, fit_until=first, half_life_ms=half_life, fit=fit
            ),
            ALS: lambda: als.Als(
                log, fit=fit.some(fit.ts < first), factors=config.als_factors, seed=config.seed
            ),
        }
        made = makers[name]()
        drop = drops_seen(self.document) and name != FREQUENCY
        return baselines.Unseen(made, log) if drop else made

    def towers(self, name: str) -> Method:
        """The retriever's own ranking of the whole catalogue."""
        top = evaluation.nearest(
            self.recommender.retriever, self.examples, self.rows, max(evaluation.CUTS)
        )
        return self.method(name, top)

    def followers(self, name: str) -> Method:
        """What follows what, by itself: memory that nothing was trained for."""
        top = evaluation.following(
            self.recommender.retriever, self.examples, self.rows, max(evaluation.CUTS)
        )
        return self.method(name, top)

    def beside(self, name: str) -> Method:
        """The full ranking of another run's retriever, one of `evaluate.beside`."""
        other, prepared = self._other(name)
        examples = examples_of(prepared, other)
        retriever = recommender_of(other, examples, until_ms=self._first).retriever
        top = evaluation.nearest(retriever, examples, self.rows, max(evaluation.CUTS))
        return self.method(name, self.examples.catalogue.places(examples.catalogue.keys[top]))

    def _other(self, name: str) -> tuple[Document, Prepared]:
        """A run of `evaluate.beside`, which leaves out of its lists what this one leaves out."""
        key, ours = f"evaluate.beside.{name}", self.document
        other = run_at(ours.evaluate.beside[name], key)
        other = other.model_copy(update={"candidates": ours.candidates})
        prepared = Prepared.open(other.folder / "prepared", other)
        if same_requests(prepared.requests) != self._digest:
            raise ValueError(
                f"{key}: {other.folder} was prepared from other requests than {ours.folder}: "
                "prepare both from the same source, with the same `requests`"
            )
        return other, prepared

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
        shared = own
        if name != "all":
            shared = evaluation.scored(
                recommender, self.examples, self.rows, reading=read, candidates=self.retrieved
            )
        figures = evaluation.ranking_metrics(shared, recommender, self.target)
        method = self.method(name, top, **figures)
        method.lists["recall@retrieved"] = evaluation.retrieved(top, self.wanted)
        return method


def _best(block: baselines.Scores, count: int) -> Ints:
    """`(B, count)` places by score, best first; 0 where none is left that may be found."""
    found = torch.from_numpy(block).topk(min(count, block.shape[1]))
    top: Ints = (found.indices * torch.isfinite(found.values)).numpy()
    return top


def _nothing_to_find(examples: Examples, document: Document, split: str, num: int) -> str:
    """Why a split has nothing to measure, and what does occur."""
    target = document.model.target
    if not num:
        return f"requests: none is in {split}; move the times of the splits and prepare again"
    counts = np.bincount(examples.histories.interactions["action"], minlength=256)
    there = [f"{name}: {counts[a.code]:,}" for name, a in ACTIONS.items() if counts[a.code]]
    return (
        f"none of the {num:,} requests of {split} has a {target!r} of an item in the catalogue "
        f"(requests.target); in all events there are {', '.join(there)}"
    )


@lru_cache(maxsize=2)
def _bench(document_json: str, split: str) -> Bench:
    return Bench(Document.model_validate_json(document_json), split)


def measure(document_json: str, split: str, kind: str, name: str) -> Method:
    """One task: `kind` is a method of `Bench`. A process loads data and weights once."""
    bench = _bench(document_json, split)
    kinds: dict[str, Callable[[str], Method]] = {
        "baseline": bench.baseline,
        "beside": bench.beside,
        "followers": bench.followers,
        "reading": bench.reading,
        "towers": bench.towers,
    }
    return kinds[kind](name)


def asked_of(document_json: str, split: str) -> Asked:
    """One task: what is measured. A worker runs it, so that the driver never loads the data."""
    return _bench(document_json, split).asked
