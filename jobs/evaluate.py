"""evaluate: does memory help? Baselines, ablation, placebo, slices, on the test requests."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import console

if TYPE_CHECKING:
    from configs.load import Document
    from jobs.measuring import Asked
    from models.report import Compared, Method

Baselines = Annotated[
    bool, typer.Option("--baselines", help="Only the baselines: nothing need be trained yet.")
]


def main(
    config: console.ConfigFile,
    overrides: console.Overrides = None,
    baselines: Baselines = False,
    wandb: Annotated[
        bool, typer.Option(help="Log to Weights & Biases (offline by default).")
    ] = True,
) -> None:
    """Measures the trained model on the test split, full rankings, intervals by user.

    \b
    Reads runs/<name>/prepared/ and model/ and writes runs/<name>/evaluation/:
      report.html (all in one file), report.md with its plots, report.json

    \b
    Examples:
      python -m jobs.evaluate --config configs/online_retail.yaml
      python -m jobs.evaluate --config configs/amazon_beauty.yaml --baselines
      python -m jobs.evaluate --config configs/news_clicks.yaml --set evaluate.max_requests=5000
      python -m jobs.evaluate --config mine.yaml --set evaluate.beside.sasrec=runs/mine_sasrec
      python -m jobs.evaluate --config mine.yaml --set "evaluate.seeds=[runs/mine_2, runs/mine_3]"
    """  # noqa: D301  # the backspace tells click to keep the lines of a paragraph
    from configs.load import load

    document = load(config, overrides or [])
    with console.ray_session():
        asked = f"python -m jobs.evaluate {shlex.join(sys.argv[1:])}"
        tables = evaluate_baselines(document) if baselines else evaluate(document, command=asked)
    for table in tables:
        show(table)
    if not baselines:
        log(document, tables, track=wandb)
    folder = document.folder / "evaluation"
    if baselines:
        console.out.print("nothing is written with --baselines")
    else:
        console.out.print(f"report: {folder / 'report.html'} and .md", soft_wrap=True)


def evaluate(document: Document, *, command: str | None = None) -> list[Compared]:
    """Measures all methods, writes the report and returns its tables.

    Args:
        command: what was typed, for the report.

    Raises:
        ValueError: when nothing fitting is prepared or trained, here or in a run to compare with.
    """
    from jobs import telling
    from jobs.beside import report_at, run_at
    from jobs.prepared import replacing
    from jobs.trained import description_of

    description = description_of(document)
    # What can be wrong is told before anything is measured.
    for name, path in document.evaluate.beside.items():
        description_of(run_at(path, f"evaluate.beside.{name}"))
    others = {path: report_at(path) for path in document.evaluate.seeds}
    asked, found = measured(document, telling.tasks_of(document))
    told = telling.told(document, asked, found)
    facts = telling.facts_of(document, asked, description)
    facts |= {"made by": f"`{command}`"} if command else {}
    with replacing(document.folder / "evaluation") as folder:
        telling.write(folder, document, told, facts, others)
    return [*told.tables]


def log(document: Document, tables: Sequence[Compared], *, track: bool) -> None:
    """All tables, in a run of its own beside the training's."""
    from jobs.tracking import model_artifact, tracked
    from jobs.trained import description_of

    training = description_of(document)
    with tracked(document, "evaluate", training=training["run_id"], track=track) as tracker:
        tracker.artifact(model_artifact(document, training), used=True)
        for table in tables:
            tracker.table(table.title, table.rows())
            best = table.row(table.reference)
            tracker.log({f"{table.title}/{name}": value for name, value in best.items()})


def evaluate_baselines(document: Document) -> list[Compared]:
    """The baselines alone, compared with the last of them; nothing is written."""
    from jobs.measuring import baselines_of
    from models.report import compare

    names = baselines_of(document)
    asked, found = measured(document, [("baseline", name) for name in names])
    methods = [found[name] for name in names]
    return [
        compare(
            "Baselines",
            "",
            methods,
            users=asked.users,
            reference=names[-1],
            config=document.evaluate,
        )
    ]


def measured(document: Document, tasks: list[tuple[str, str]]) -> tuple[Asked, dict[str, Method]]:
    """What is measured, and each `(kind, name)` run as a Ray task; the methods by name."""
    import ray

    from jobs.measuring import asked_of, measure

    given = document.model_dump_json()
    task = ray.remote(num_cpus=1)(measure)
    with console.step("measure on the test requests") as note:
        asked: Asked = ray.get(ray.remote(num_cpus=1)(asked_of).remote(given, "test"))
        waiting = {task.remote(given, "test", kind, name): name for kind, name in tasks}
        found = {}
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1)
            found[waiting.pop(done[0])] = ray.get(done[0])
            console.out.print(f"    {len(found)} of {len(tasks)} methods", soft_wrap=True)
        note(f"{len(found)} methods, {len(asked.users):,} of {asked.num_requests:,} requests")
    return asked, found


def show(table: Compared) -> None:
    """One table of lists, the headline with its interval, and one of ranking if there is any."""
    place = table.metrics.index(table.headline)
    shown = [m for m in table.metrics if m != "recall@50"]
    rows = []
    for name, interval in zip(table.names, table.intervals, strict=True):
        means = dict(zip(table.metrics, interval.mean, strict=True))
        ends = f"{interval.low[place]:.4f}..{interval.high[place]:.4f}"
        rows.append([name, *(f"{means[m]:.4f}" for m in shown), ends])
    console.table(table.title, ["method", *shown, "95 %"], rows)
    if table.ranking[0]:
        rows = [
            [name, *(f"{figure:.4f}" for figure in figures.values())]
            for name, figures in zip(table.names, table.ranking, strict=True)
        ]
        console.table(f"{table.title}: all together", ["method", *table.ranking[0]], rows)


if __name__ == "__main__":
    console.run(main)
