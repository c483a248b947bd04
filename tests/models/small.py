"""Small worlds for networks: users who come back for two items of their own, and random rings.

Between a user's purchases lie looks at items that mean nothing, so there is something to learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property

import numpy as np
import pyarrow as pa
import torch

from models.catalogue import Catalogue
from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION, SCHEMA, Interactions, validate
from models.examples import Examples, Ints, requests_of
from models.features import UserSide, user_side
from models.fitting import Feed, Splits, Trainer
from models.memory import user_feature_names
from models.model import ModelConfig, build
from models.parts import Part, partition
from models.records import pack
from models.requests import RequestConfig
from models.retrieval.towers import RetrieverBatch, TwoTower
from models.threads import memories_of, threads_of
from models.training import StageConfig, TrainConfig
from tests import worlds
from tests.worlds import BEGIN

torch.set_num_threads(1)
"""Tensors here are tiny: more threads would only wait for one another, and sum in another order."""
CATALOGUE = worlds.World().catalogue
"""Thirty items, one more a day from `BEGIN`."""
ITEMS = np.append(CATALOGUE.keys[1:8], np.asarray([77, 78], np.uint64))
"""Keys of seven items of the catalogue and of two that are not in it."""
MODEL = ModelConfig.model_validate(
    {
        **worlds.MODEL.model_dump(),
        "heads": ("view", "purchase"),
        "retriever": {"width": 8, "heads": 2, "num_negatives": 32, "dropout": 0.1},
    }
)
STAGE = StageConfig(epochs=3, batch=32, learning_rate=1e-2, table_learning_rate=2e-2)
TRAIN = TrainConfig(retriever=STAGE, ranker=STAGE, num_candidates=12)
NUM_LONG = len(user_feature_names(MODEL.memory))
NUM_USERS, NUM_SESSIONS = 24, 8
COUNTRIES = ("France", "Spain", "Eire")
CODES = tuple(ACTIONS[name].code for name in ("view", "purchase", "cancel", "impression"))


def day_ms(day: float) -> int:
    """Milliseconds of a day of the world."""
    return BEGIN + round(day * DAY_MS)


def _utc(day: float) -> datetime:
    return datetime.fromtimestamp(day_ms(day) / 1000, UTC)


REQUESTS = RequestConfig(
    labels=MODEL.heads,
    target=MODEL.target,
    warmup=_utc(35),
    validate_from=_utc(65),
    test_from=_utc(75),
    context=("country",),
)


def planted_rows(seed: int = 1) -> list[dict[str, object]]:
    """Every six days from day 31 each user looks at two items and buys their own two."""
    rng = np.random.default_rng(seed)
    ids = CATALOGUE.item_ids
    rows = []
    for user in range(NUM_USERS):
        own = [ids[n] for n in rng.choice(len(ids), 2, replace=False)]
        for session in range(NUM_SESSIONS):
            looks = [ids[n] for n in rng.choice(len(ids), 2, replace=False)]
            begin = day_ms(31 + 6 * session) + 1000 * user + int(rng.integers(DAY_MS // 1000)) * 100
            for number, item in enumerate([*looks, *own]):
                rows.append(
                    {
                        "event_id": f"{session}-{number}",
                        "user_id": f"user-{user:02}",
                        "ts": begin + 60_000 * number,
                        "item_id": item,
                        "action": "view" if number < 2 else "purchase",
                        "session_id": f"s{user}-{session}",
                    }
                )
    return rows


def table_of(rows: list[dict[str, object]]) -> pa.Table:
    """Validated events; the context is the country of the session."""
    nullable = pa.schema([field.with_nullable(True) for field in SCHEMA])
    checked = validate(pa.Table.from_pylist(rows, nullable), now_ms=day_ms(1000))
    assert not len(checked.rejected), checked.rejected
    countries = [COUNTRIES[len(str(row["session_id"])) % len(COUNTRIES)] for row in rows]
    return checked.good.append_column("context_country", pa.array(countries))


@dataclass(frozen=True)
class Small:
    """Examples of some events, with the requests as a table."""

    events: pa.Table

    @cached_property
    def part(self) -> Part:
        return partition(
            pack(self.events, REQUESTS.context),
            requests=REQUESTS,
            memory=MODEL.memory,
            interests=CATALOGUE.interests,
        )

    @cached_property
    def table(self) -> pa.Table:
        """Requests by time."""
        return self.part.requests.sort_by("as_of")

    @cached_property
    def examples(self) -> Examples:
        return examples_of(self.table, self.part)

    def rows(self, split: str) -> Ints:
        return np.flatnonzero(np.asarray(self.table["split"].to_pylist()) == split)

    def feed(self, stage: int, epoch: int, batch: int) -> Iterator[Ints]:
        """Batches of training rows, in an order that the place in the run decides."""
        rows = np.random.default_rng([stage, epoch]).permutation(self.rows("train"))
        return (rows[i : i + batch] for i in range(0, len(rows), batch))


def trainer(small: Small, train: TrainConfig = TRAIN, **changes: object) -> Trainer:
    """A trainer with fresh weights; `changes` are to the model."""
    return Trainer(
        small.examples,
        Splits(small.rows("train"), small.rows("validate")),
        model=MODEL.model_copy(update=changes),
        serving=worlds.SERVING,
        train=train,
    )


def feed_of(made: Trainer) -> Feed:
    """Batches of a trainer's units, in an order that the place in the run decides."""

    def feed(stage: int, epoch: int, batch: int) -> Iterator[Ints]:
        units = np.random.default_rng([stage, epoch]).permutation(made.units(stage))
        return (units[i : i + batch] for i in range(0, len(units), batch))

    return feed


def examples_of(table: pa.Table, part: Part, catalogue: Catalogue = CATALOGUE) -> Examples:
    requests = requests_of(
        table, histories=part.histories, catalogue=catalogue, features=MODEL.features
    )
    return Examples(
        requests,
        histories=part.histories,
        catalogue=catalogue,
        features=MODEL.features,
        memory=MODEL.memory,
    )


@cache
def planted() -> Small:
    return Small(table_of(planted_rows()))


def ring(rng: np.random.Generator, num: int, *, now_ms: int) -> Interactions:
    """`(num,)` random interactions before a moment, in order; some items are not in the catalogue.

    Sessions are named, unnamed, or a named one between unnamed ones.
    """
    found = np.zeros(num, INTERACTION)
    ages = np.sort(rng.choice([600_000, 7_200_000, DAY_MS, 40 * DAY_MS], num) * rng.random(num))
    found["ts"] = now_ms - 1 - ages[::-1].astype(np.int64)
    found["event"] = rng.permutation(num) + 1
    found["item"] = rng.choice(ITEMS, num)
    found["session"] = rng.choice([0, 5, 6], num)
    found["action"] = rng.choice(CODES, num)
    return found


def padded(rings: list[Interactions], length: int) -> Interactions:
    """`(B, length)` the newest of each, zero records in front."""
    found = np.zeros((len(rings), length), INTERACTION)
    for row, each in enumerate(rings):
        kept = each[-length:]
        found[row, length - len(kept) :] = kept
    return found


def side(rings: list[Interactions], *, now_ms: int, length: int = 8, seed: int = 0) -> UserSide:
    """The user side of rings, with user level and context drawn under a seed."""
    rng = np.random.default_rng(seed)
    batch = padded(rings, length)
    return user_side(
        batch,
        item=CATALOGUE.places(batch["item"]),
        now_ms=np.full(len(rings), now_ms),
        session=rng.choice(np.asarray([0, 5, 6], np.uint64), len(rings)),
        long=rng.normal(size=(len(rings), NUM_LONG)).astype(np.float32),
        context=rng.integers(0, 9, (len(rings), 1)),
        view=MODEL.memory.view,
    )


def random_side(num: int, *, seed: int = 0, now_ms: int = day_ms(60)) -> UserSide:
    """`num` users, the first with no memory at all, the second with a full ring."""
    rng = np.random.default_rng(seed)
    sizes = [0, 12, *rng.integers(1, 9, max(num - 2, 0))][:num]
    return side([ring(rng, size, now_ms=now_ms) for size in sizes], now_ms=now_ms, seed=seed)


def rows_of(user: UserSide, rows: list[int]) -> UserSide:
    """Some requests of a user side."""
    return UserSide(**{name: value[rows] for name, value in vars(user).items()})


def same(one: UserSide, other: UserSide) -> bool:
    """Whether every tensor is equal, bit for bit."""
    return all(torch.equal(value, getattr(other, name)) for name, value in vars(one).items())


def nobody(days: list[float]) -> UserSide:
    """Users without any memory, at moments in days of the world."""
    moments = np.asarray([day_ms(day) for day in days])
    return user_side(
        np.zeros((len(days), 8), INTERACTION),
        item=np.zeros((len(days), 8), np.int64),
        now_ms=moments,
        session=np.zeros(len(days), np.uint64),
        long=np.zeros((len(days), NUM_LONG), np.float32),
        context=np.zeros((len(days), 1), np.int64),
        view=MODEL.memory.view,
    )


def batch_of(
    examples: Examples,
    rows: list[int],
    *,
    negatives: list[int],
    positives: tuple[list[int], list[int]] | None = None,
    log_q: torch.Tensor | None = None,
    appeared: dict[int, int] | None = None,
) -> RetrieverBatch:
    """A retriever batch with chosen negatives; `positives` are (request in the batch, place).

    Args:
        appeared: places to when they appeared, in milliseconds, where not as the catalogue says.
    """
    asked = np.asarray(rows)
    threads = threads_of(
        examples.requests,
        asked,
        histories=examples.histories,
        spec=MODEL.memory.state,
        length=examples.features.history,
    )
    chosen = np.arange(len(threads))
    found = threads.requests_of(chosen)[1]
    keep = torch.ones(len(rows), 3, dtype=torch.bool)
    memories, cells = memories_of(examples, threads, chosen, keep)
    place_of = {row: place for place, row in enumerate(found.tolist())}
    cells = cells[[place_of[row] for row in rows]]
    request, items = examples.requests.pairs(asked)[:2] if positives is None else positives
    wanted, drawn = torch.tensor(items, dtype=torch.long), np.unique(negatives)
    request = torch.as_tensor(request, dtype=torch.long)
    now = torch.from_numpy(examples.requests.as_of_ms[asked] / DAY_MS)
    of_item = {int(place): slot for slot, place in enumerate(drawn)}
    slots = [[of_item.get(place, len(drawn)) for place in row] for row in memories.item.tolist()]
    closed = [
        (row, of_item[place])
        for row, place in zip(request.tolist(), wanted.tolist(), strict=True)
        if place in of_item
    ]
    since = {place: examples.catalogue.first_seen_ms[place] for place in of_item} | (appeared or {})
    for row, moment in enumerate(examples.requests.as_of_ms[asked].tolist()):
        closed += [(row, of_item[place]) for place in of_item if since[place] >= moment]
    steps, step = examples.popularity.steps(now)
    q = torch.zeros(len(examples.catalogue)) if log_q is None else log_q
    places = torch.cat([wanted, torch.from_numpy(drawn)])
    return RetrieverBatch(
        memories=memories,
        cells=cells,
        now_days=now,
        positives=wanted,
        request=request,
        negatives=torch.from_numpy(drawn),
        log_q=q[places],
        closed=torch.tensor(closed, dtype=torch.long).reshape(-1, 2).T,
        slots=torch.tensor(slots),
        step=step,
        popularity=torch.stack([examples.popularity.step(s)[drawn] for s in steps]),
        popularity_hit=examples.popularity.read(now[request], wanted[:, None])[:, 0],
        asked=torch.arange(len(wanted)),
        keep_words=torch.ones(len(wanted), examples.features.text_grams, dtype=torch.bool),
    )


def towers(seed: int = 1, **changes: object) -> TwoTower:
    """Towers without dropout, in which nothing is still as little as training begins with."""
    config = MODEL.retriever.model_copy(update={"dropout": 0.0, **changes})
    torch.manual_seed(seed)
    net = build(CATALOGUE, MODEL.model_copy(update={"retriever": config}))[0]
    for layer in (net.user[-1], net.out[-1]):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return net
