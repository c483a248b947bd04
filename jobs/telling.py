"""What `evaluate` measures, and how the figures become one report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.load import Document
from jobs.measuring import ALS, FOLLOWERS, FULL, TOWERS, Asked, baselines_of
from models import ablation, report
from models.config import DAY_MS
from models.report import HEADLINE, Compared, Grid, Method
from models.reporting import plots
from models.reporting.markdown import as_markdown
from models.reporting.page import as_page
from models.retrieval import als
from models.slices import Sliced, sliced
from models.spread import spread

RANKING, ABLATION, STALENESS = (
    "Full ranking of the catalogue",
    "Memory ablation",
    "Memory of some days ago",
)


@dataclass(frozen=True)
class Told:
    """The parts of a report."""

    ranking: Compared
    ablation: Compared
    staleness: Compared | None
    beyond: Compared
    slices: Sliced | None

    @property
    def tables(self) -> tuple[Compared, ...]:
        """Those of methods beside one another."""
        aged = (self.staleness,) if self.staleness else ()
        return (self.ranking, self.ablation, *aged, self.beyond)


def ages_of(document: Document) -> tuple[int, ...]:
    """How old a memory is tried, in milliseconds; not at all where there is no common time."""
    return document.evaluate.staleness if document.requests.split == "time" else ()


def tasks_of(document: Document) -> list[tuple[str, str]]:
    """All that is measured: `(kind, name)`, as `jobs.measuring.measure` takes them."""
    readings = [*ablation.READINGS, ablation.PLACEBO, *map(ablation.stale, ages_of(document))]
    return [
        *(("reading", name) for name in readings),
        ("followers", FOLLOWERS),
        ("towers", TOWERS),
        *(("baseline", name) for name in baselines_of(document)),
        *(("beside", name) for name in document.evaluate.beside),
    ]


def told(document: Document, asked: Asked, found: Mapping[str, Method]) -> Told:
    """All tables of the methods measured, by name."""
    config, users = document.evaluate, asked.users
    baselines = (*baselines_of(document), *config.beside)
    full = found["all"].renamed(FULL)
    plain = {k: v for k, v in full.lists.items() if k != "recall@retrieved"}
    full = Method(FULL, plain, beyond=full.beyond, coverage=full.coverage)
    methods = [*(found[name] for name in (*baselines, FOLLOWERS, TOWERS)), full]
    ranking = report.compare(
        RANKING,
        _note(document),
        methods,
        users=users,
        reference=FULL,
        config=config,
    )
    readings = [found[name] for name in [*ablation.READINGS, ablation.PLACEBO]]
    best = max((*baselines, FOLLOWERS), key=lambda name: ranking.row(name)[HEADLINE])
    values = {FULL: full, best: found[best], "no memory": found["none"]}
    return Told(
        ranking=ranking,
        ablation=report.compare(
            ABLATION,
            "The same weights under other readings of memory, in retrieval and in ranking. "
            "Ranking figures are on the candidates that full memory retrieves.",
            readings,
            users=users,
            reference="all",
            config=config,
        ),
        staleness=_staleness(document, asked, found),
        beyond=report.beyond_accuracy(methods, users=users, reference=FULL, config=config),
        slices=sliced(
            HEADLINE,
            {name: method.lists[HEADLINE] for name, method in values.items()},
            asked.traits,
            users=users,
            config=config,
        )
        if asked.traits
        else None,
    )


def _note(document: Document) -> str:
    """What the first table says of its protocol."""
    when = (
        "Every item that had appeared before the request is ranked"
        if document.requests.split == "time"
        else "Every item is ranked, for the last event of each user"
    )
    seen = ", but for those that the user met before" if document.candidates.drop_seen else ""
    missing = "" if als.is_there() else f" {ALS} is left out: the package `{als.NEEDS}` is missing."
    return f"{when}{seen}; nothing is sampled.{missing}"


def _staleness(document: Document, asked: Asked, found: Mapping[str, Method]) -> Compared | None:
    ages = ages_of(document)
    if not ages:
        return None
    names = ["all", *map(ablation.stale, ages), "none"]
    shown = ["of the moment", *names[1:-1], "no memory"]
    return report.compare(
        STALENESS,
        "The same weights, reading memory as it was so long before each request: what a service "
        "would know that learns of events so much later. A session that began since is not in it.",
        [
            Method(name, found[key].lists, found[key].ranking)
            for name, key in zip(shown, names, strict=True)
        ],
        users=asked.users,
        reference=shown[0],
        config=document.evaluate,
    )


def facts_of(document: Document, asked: Asked, description: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says of itself."""
    begin = document.requests.test_from
    return {
        "name": document.name,
        "requests": len(asked.users),
        "users": len(set(asked.users.tolist())),
        **({"drawn": drawn(asked)} if len(asked.users) < asked.num_requests else {}),
        "split": document.requests.split,
        **({"test from": begin.isoformat()} if begin else {}),
        "seed": document.train.seed,
        "request digest": asked.digest,
        "model digest": document.model.digest(),
        "trained": description["made_at"],
    }


def drawn(asked: Asked) -> str:
    """What part of the test requests was measured, in words."""
    return (
        f"whole users at random (evaluate.max_requests), from {asked.num_requests:,} requests of "
        f"{asked.num_users:,} users"
    )


def write(
    folder: Path,
    document: Document,
    told: Told,
    facts: Mapping[str, Any],
    others: Mapping[str, dict[str, Any]],
) -> None:
    """Writes the report in all its forms.

    Args:
        others: what the evaluations of other seeds found, by their folders.
    """
    shown = _draw(folder, document, told)
    grids = [table.grid() for table in told.tables]
    if told.slices is not None:
        grids.append(told.slices.grid())
    own = report.as_json(told.tables, facts, grids[len(told.tables) :])
    if others:
        grids.insert(1, _seeds(own, others, document))
        own = report.as_json(told.tables, facts, [grids[1], *grids[1 + len(told.tables) :]])
    text = as_markdown(grids, facts, shown)
    pictures = {path.name: path.read_bytes() for path in folder.glob("*.svg")}
    (folder / "report.json").write_text(own)
    (folder / "report.md").write_text(text)
    (folder / "report.html").write_text(as_page(text, pictures))


def _seeds(own: str, others: Mapping[str, dict[str, Any]], document: Document) -> Grid:
    reports = {str(document.folder): json.loads(own), **others}
    return spread(reports, title=RANKING).grid()


def _draw(folder: Path, document: Document, told: Told) -> dict[str, list[tuple[str, str]]]:
    """Draws what there is; title of the table to its plots."""
    shown: dict[str, list[tuple[str, str]]] = {}
    for table, name in ((told.ranking, "ranking.svg"), (told.ablation, "ablation.svg")):
        plots.draw_methods(table, folder / name)
        shown[table.title] = [(name, f"{table.headline} of each method with 95 % intervals")]
    if told.staleness is not None:
        days = [0.0, *(age / DAY_MS for age in ages_of(document))]
        plots.draw_staleness(told.staleness, days, folder / "staleness.svg")
        shown[STALENESS] = [("staleness.svg", f"{HEADLINE} against the age of memory")]
    if told.slices is not None and told.slices.slices:
        plots.draw_slices(told.slices, folder / "slices.svg")
        shown["Slices"] = [("slices.svg", f"{HEADLINE} in each slice with 95 % intervals")]
    return shown
