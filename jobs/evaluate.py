"""evaluate: does memory help? Baselines, ablation and placebo on the test requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs import console

if TYPE_CHECKING:
    from configs.load import Document
    from jobs.measuring import Asked
    from models.report import Compared, Method


def main(config: console.ConfigFile, overrides: console.Overrides = None) -> None:
    """Measures the trained model on the test split, full rankings, intervals by user.

    \b
    Reads runs/<name>/prepared/ and model/ and writes runs/<name>/evaluation/:
      report.md, report.json, report.png

    \b
    Examples:
      python -m jobs.evaluate --config configs/online_retail.yaml
      python -m jobs.evaluate --config configs/online_retail.yaml --set evaluate.num_samples=5000
      python -m jobs.evaluate --config configs/news_clicks.yaml --set evaluate.max_requests=5000
    """  # noqa: D301  # the backspace tells click to keep the lines of a paragraph
    from configs.load import load

    document = load(config, overrides or [])
    with console.ray_session():
        tables = evaluate(document)
    for table in tables:
        show(table)
    console.out.print(f"report: {document.folder / 'evaluation' / 'report.md'}", soft_wrap=True)


def evaluate(document: Document) -> list[Compared]:
    """Measures all methods, writes the report and returns its tables.

    Raises:
        ValueError: when nothing fitting is prepared or trained.
    """
    from jobs import measuring
    from jobs.prepared import replacing
    from jobs.trained import description_of
    from models import ablation, report

    description = description_of(document)
    baselines = measuring.baselines_of(document.evaluate)
    tasks = [("reading", name) for name in [*ablation.READINGS, ablation.PLACEBO]]
    tasks += [("towers", measuring.TOWERS), *(("baseline", name) for name in baselines)]
    asked, found = measured(document, tasks)
    users = asked.users
    full = report.Method(
        measuring.FULL,
        {k: v for k, v in found["all"].lists.items() if k != "recall@retrieved"},
    )
    methods = [found[name] for name in (*baselines, measuring.TOWERS)]
    tables = [
        report.compare(
            "Full ranking of the catalogue",
            "Every item that had appeared before the request is ranked; nothing is sampled.",
            [*methods, full],
            users=users,
            reference=measuring.FULL,
            config=document.evaluate,
        ),
        report.compare(
            "Memory ablation",
            "The same weights under other readings of memory, in retrieval and in ranking. "
            "Ranking figures are on the candidates that full memory retrieves.",
            [found[name] for name in [*ablation.READINGS, ablation.PLACEBO]],
            users=users,
            reference="all",
            config=document.evaluate,
        ),
    ]
    facts = {
        "name": document.name,
        "requests": len(users),
        "users": len(set(users.tolist())),
        **({"drawn": drawn(asked)} if len(users) < asked.num_requests else {}),
        "test from": document.requests.test_from.isoformat(),
        "model digest": document.model.digest(),
        "trained": description["made_at"],
    }
    with replacing(document.folder / "evaluation") as folder:
        report.draw(tables, folder / "report.png")
        (folder / "report.json").write_text(report.as_json(tables, facts))
        (folder / "report.md").write_text(report.as_markdown(tables, facts, "report.png"))
    return tables


def drawn(asked: Asked) -> str:
    """What part of the test requests was measured, in words."""
    return (
        f"whole users at random (evaluate.max_requests), from {asked.num_requests:,} requests of "
        f"{asked.num_users:,} users"
    )


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
    from models.report import HEADLINE

    place = table.metrics.index(HEADLINE)
    shown = [m for m in table.metrics if m != "recall@50"]
    rows = []
    for name, interval in zip(table.names, table.intervals, strict=True):
        means = dict(zip(table.metrics, interval.mean, strict=True))
        span = f"{interval.low[place]:.4f}..{interval.high[place]:.4f}"
        rows.append([name, *(f"{means[m]:.4f}" for m in shown), span])
    console.table(table.title, ["method", *shown, "95 %"], rows)
    if table.ranking[0]:
        rows = [
            [name, *(f"{figure:.4f}" for figure in figures.values())]
            for name, figures in zip(table.names, table.ranking, strict=True)
        ]
        console.table(f"{table.title}: ranking", ["method", *table.ranking[0]], rows)


if __name__ == "__main__":
    console.run(main)
