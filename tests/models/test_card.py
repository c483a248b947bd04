"""A model card tells what is on disk, and what is not there it says is not there."""

from dataclasses import replace

from models.card import MISSING, Facts, model_card

EPOCHS = [
    {"stage": stage, "epoch": epoch, "loss": 1.0, "validate_ndcg@10": score}
    for stage, scores in (("retriever", (0.2, 0.25)), ("ranker", (0.31, 0.3)))
    for epoch, score in enumerate(scores)
]
REPORT = {
    "facts": {"requests": 120, "users": 40, "slices": {"not": "told"}},
    "tables": [
        {
            "title": "Memory ablation",
            "methods": {
                "all": {"mean_low_high": {"ndcg@10": [0.3, 0.28, 0.32]}},
                "none": {"mean_low_high": {"ndcg@10": [0.1, 0.09, 0.11]}},
            },
        }
    ],
}
FACTS = Facts(
    "shop",
    document={
        "source": {"path": "log/*.parquet"},
        "requests": {
            **{"labels": ["click", "hire"], "target": None, "split": "time"},
            **{"validate_from": "2011-10-15", "test_from": "2011-11-10"},
        },
        "train": {"seed": 7},
    },
    training={
        **{"prepared": "p123", "run_id": "r456", "made_at": "2026-11-26T23:00:00+00:00"},
        **{"digest": "d789", "catalogue": "c012", "history": EPOCHS, "started_from": None},
    },
    prepared={
        "ledger": {
            **{"read": 1200, "kept": 1100, "users": 90, "items": 30},
            **{"first_ts": "2011-01-01T00:00:00+00:00", "last_ts": "2011-12-09T00:00:00+00:00"},
            "requests": {"train": 700, "validate": 80, "test": 120},
        }
    },
    evaluation=REPORT,
)


def test_a_card_tells_data_lineage_and_figures_with_intervals():
    card = model_card(FACTS)
    for text in (
        "# shop",
        "`log/*.parquet`",
        "1,100 of 1,200 rows read, from 2011-01-01",
        "700 to train, 80 to validate, 120 to test",
        "validation from 2011-10-15, test from 2011-11-10",
        "prepared data `p123`",
        "training run `r456`",
        "model specification `d789`, catalogue `c012`",
        "Seed 7.",
        "| retriever | 2 of 2 | 0.2500 |",
        "| ranker | 1 of 2 | 0.3100 |",
        "### Memory ablation",
        "| all | 0.3000 [0.2800, 0.3200] |",
        "* users: 40",
        "chance of a 'hire'",
        "memory.parquet",
        "python -m jobs.train --config document.yaml",
    ):
        assert text in card, text
    assert "told" not in card.split("## How good it is")[1].split("###")[0]
    assert MISSING not in card
    assert "None" not in card


def test_a_card_says_what_it_began_with_and_what_is_missing():
    began = {**FACTS.training, "started_from": "/runs/yesterday/release"}
    card = model_card(replace(FACTS, training=began, evaluation=None))
    assert "began with the weights of `/runs/yesterday/release`" in card
    assert MISSING in card
    assert "###" not in card
