"""A model card (Mitchell et al., 2019): what a release is, in words, from facts on disk alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAME = "MODEL_CARD.md"
MISSING = "Not evaluated: run `python -m jobs.evaluate`, then release again."


@dataclass(frozen=True)
class Facts:
    """All that a card tells."""

    name: str
    document: Mapping[str, Any]
    """The resolved configuration."""
    training: Mapping[str, Any]
    """`model.json`: digests, the run, figures of every epoch."""
    prepared: Mapping[str, Any]
    """The manifest of the prepared data."""
    evaluation: Mapping[str, Any] | None
    """`report.json`, when it is of these very weights."""


def model_card(facts: Facts) -> str:
    """The card as Markdown."""
    parts = [
        f"# {facts.name}",
        "A retriever and a ranker that read what is remembered of a user, with the index, the "
        "catalogue and everybody's memory as of the newest event. Made by Ebb.",
        "## Data",
        *_data(facts),
        "## Where it comes from",
        *_lineage(facts),
        "## Training",
        *_training(facts),
        "## How good it is",
        *(_evaluation(facts.evaluation) if facts.evaluation else [MISSING]),
        "## Use and limits",
        *_limits(facts),
        "## Make it again",
        *_again(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _data(facts: Facts) -> list[str]:
    ledger, document = facts.prepared["ledger"], facts.document
    requests = document["requests"]
    splits = ", ".join(f"{num:,} to {split}" for split, num in ledger["requests"].items())
    lines = [
        f"source: `{document['source']['path']}`",
        f"events kept: {ledger['kept']:,} of {ledger['read']:,} rows read, from "
        f"{ledger['first_ts']} to {ledger['last_ts']}",
        f"users: {ledger['users']:,}; items: {ledger['items']:,}",
        f"requests: {splits}",
        f"labels: {', '.join(requests['labels'])}",
    ]
    if requests.get("split", "time") == "time":
        lines.append(
            f"split by time: validation from {requests['validate_from']}, test from "
            f"{requests['test_from']}"
        )
    else:
        lines.append(f"split: {requests['split']}")
    return [_list(lines)]


def _lineage(facts: Facts) -> list[str]:
    training = facts.training
    return [
        _list(
            [
                f"prepared data `{training['prepared']}`",
                f"training run `{training['run_id']}`, ended {training['made_at']}",
                f"model specification `{training['digest']}`, catalogue `{training['catalogue']}`",
                *(
                    [f"began with the weights of `{training['started_from']}`"]
                    if training.get("started_from")
                    else []
                ),
                "the SHA-256 of every file is in `manifest.json`",
            ]
        )
    ]


def _training(facts: Facts) -> list[str]:
    history = facts.training["history"]
    names = [name for name in history[0] if name.startswith("validate_")] if history else []
    rows = []
    for stage in dict.fromkeys(figures["stage"] for figures in history):
        epochs = [figures for figures in history if figures["stage"] == stage]
        best = max(epochs, key=lambda figures: figures["validate_ndcg@10"])
        place = f"{best['epoch'] + 1} of {epochs[-1]['epoch'] + 1}"
        rows.append([stage, place, *(f"{best[name]:.4f}" for name in names)])
    head = ["stage", "epoch kept", *(name.replace("validate_", "validation ") for name in names)]
    return [
        f"Seed {facts.document['train']['seed']}. The epoch with the best validation is kept.",
        _grid(head, rows),
    ]


def _evaluation(report: Mapping[str, Any]) -> list[str]:
    told = report["facts"]
    lines = [f"{key}: {value}" for key, value in told.items() if not isinstance(value, dict | list)]
    parts = ["Means with 95 % intervals, by bootstrap over users.", _list(lines)]
    for table in report["tables"]:
        methods = table["methods"]
        metrics = list(next(iter(methods.values()))["mean_low_high"])
        rows = [
            [name, *(_interval(found["mean_low_high"][metric]) for metric in metrics)]
            for name, found in methods.items()
        ]
        parts += [f"### {table['title']}", _grid(["method", *metrics], rows)]
    return parts


def _limits(facts: Facts) -> list[str]:
    target = facts.document["requests"]["target"] or facts.document["requests"]["labels"][-1]
    return [
        f"For recommendation and search among the items of its catalogue, to users of the same "
        f"service; slates are ordered by the chance of a {target!r}.",
        _list(
            [
                "The figures above are of the data and the period named there, and of one seed "
                "where none other is named; they promise nothing for others.",
                "An item that came after the catalogue was made is not in it.",
                "It learns from what was logged, and so from what was shown: its figures do not "
                "say what people would have chosen of all there was.",
                "No weight belongs to a user, but `memory.parquet` holds what is remembered of "
                "each: keep it as you keep the log itself.",
            ]
        ),
    ]


def _again(facts: Facts) -> list[str]:
    verbs = ("prepare", "train", "evaluate", "release")
    lines = "\n".join(f"python -m jobs.{verb} --config document.yaml" for verb in verbs)
    return [
        "With the same source, the configuration in `model.json` of the run (its `config`) as "
        "`document.yaml`, and the packages of `constraints.txt`:",
        f"```console\n{lines}\n```",
    ]


def _interval(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
