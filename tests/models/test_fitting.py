"""The training loop: it learns, it stops, it keeps the best, and it can go on where it was."""

import shutil
import threading
import traceback

import numpy as np
import pytest
import torch

from models import evaluation
from models.checkpoints import SEAL, seal
from models.fitting import Splits, Trainer
from models.progress import STAGES
from models.steps import Step
from models.training import StageConfig, TrainConfig
from tests.models.small import MODEL, STAGE, TRAIN, feed_of, planted, trainer
from tests.worlds import SERVING

SMALL = planted()
NDCG = "validate_ndcg@10"


def config(*, every=None, **changes) -> TrainConfig:
    stage = STAGE.model_copy(update={"epochs": 2, **changes})
    given = {"retriever": stage, "ranker": stage, "checkpoint_every": every}
    return TRAIN.model_copy(update=given)


ROUGH = config(epochs=6, patience=1, learning_rate=0.5, table_learning_rate=1.0)
"""Rates so high that validation goes up and down."""


def fitted(folder, train, *, checkpoints=None, resume=None):
    """A trainer after `fit`, and the loss of every step."""
    made, losses, best = trainer(SMALL, train), [], folder / "best"
    best.mkdir(parents=True)
    if resume is not None:
        made.resume(resume)

    def save(*said):
        if checkpoints is not None:
            target = checkpoints / f"{len(losses):03}-{bool(said):d}"
            target.mkdir(parents=True)
            made.save(target, best)

    made.fit(
        feed_of(made),
        best=best,
        on_step=lambda stage, done, loss: losses.append((stage, done, loss)),
        on_epoch=save,
        on_save=save,
    )
    return made, losses


def weights(made):
    nets = {"towers": made.towers, "ranker": made.ranker}
    return {f"{n}.{k}": v.clone() for n, net in nets.items() for k, v in net.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def figures(history):
    """Without the seconds, which no two runs share."""
    return [{k: v for k, v in each.items() if k != "seconds"} for each in history]


def quality(made):
    """NDCG on validation of the retriever's ranking, and of the ranker's."""
    wanted = evaluation.positives(made.examples.requests, made.chosen, made.target)
    retriever = made.retriever()
    top = evaluation.nearest(retriever, made.examples, made.chosen, 30)
    seen = evaluation.scored(made.recommender(retriever), made.examples, made.chosen)
    slates = evaluation.slates(seen, made.target)
    return [evaluation.list_metrics(lists, wanted)["ndcg@10"].mean() for lists in (top, slates)]


def test_training_improves_validation_of_both_networks(tmp_path):
    before, after = [], []
    for seed in (1, 3, 5):
        train = config(epochs=6, patience=6).model_copy(update={"seed": seed})
        before.append(quality(trainer(SMALL, train)))
        made, _ = fitted(tmp_path / str(seed), train)
        after.append(quality(made))
        for number, stage in enumerate(STAGES):
            told = [each[NDCG] for each in made.progress.history if each["stage"] == stage]
            assert max(told) == pytest.approx(after[-1][number])
    assert (np.mean(after, axis=0) > 0.9).all()
    assert (np.mean(after, axis=0) > np.mean(before, axis=0) + 0.05).all()


def test_the_same_seed_gives_the_same_losses_and_weights_and_another_does_not(tmp_path):
    one, losses = fitted(tmp_path / "one", config())
    same, same_losses = fitted(tmp_path / "same", config())
    assert losses == same_losses
    assert equal(weights(one), weights(same))
    other = config().model_copy(update={"seed": 2})
    assert fitted(tmp_path / "other", other)[1][0][2] != losses[0][2]
    steps = [2 * -(-len(one.units(stage)) // STAGE.batch) for stage in range(2)]
    assert [stage for stage, _, _ in losses] == [STAGES[0]] * steps[0] + [STAGES[1]] * steps[1]
    shares = [done for _, done, _ in losses[: steps[0]]]
    assert shares == pytest.approx([n / steps[0] for n in range(steps[0])])


@pytest.mark.parametrize("train", [config(every=2), ROUGH], ids=["within epochs", "stopped early"])
def test_a_resumed_run_is_the_run_that_was_never_cut_off(tmp_path, train):
    whole, losses = fitted(tmp_path / "whole", train, checkpoints=tmp_path / "checkpoints")
    found = sorted((tmp_path / "checkpoints").iterdir())
    assert len(found) >= len(whole.progress.history) >= 4
    assert (len(found) > len(whole.progress.history)) == bool(train.checkpoint_every)
    for checkpoint in found:
        resumed, rest = fitted(tmp_path / checkpoint.name, train, resume=checkpoint)
        assert equal(weights(resumed), weights(whole)), checkpoint.name
        assert rest == losses[len(losses) - len(rest) :]
        assert figures(resumed.progress.history) == figures(whole.progress.history)
        assert np.array_equal(resumed.progress.calibration, whole.progress.calibration)
        assert len(rest) == len(losses) - int(checkpoint.name[:3]), "nothing is done twice"


def test_a_checkpoint_that_is_not_whole_or_of_something_else_is_refused(tmp_path):
    made, _ = fitted(tmp_path / "run", config(epochs=1), checkpoints=tmp_path / "checkpoints")
    good = sorted((tmp_path / "checkpoints").iterdir())[-1]
    trainer(SMALL).resume(good)
    wider = {"retriever": MODEL.retriever.model_copy(update={"width": 16})}
    with pytest.raises(ValueError, match=r"of model \w+, here it is \w+; restore what it was, or"):
        trainer(SMALL, **wider).resume(good)
    for name in ("current.safetensors", "ranker.safetensors", "progress.json", SEAL):
        bad = tmp_path / f"bad {name}"
        for damage in ("half", "flipped", "gone"):
            shutil.rmtree(bad, ignore_errors=True)
            shutil.copytree(good, bad)
            content = bytearray((bad / name).read_bytes())
            content[len(content) // 2] ^= 1
            (bad / name).write_bytes(
                content if damage == "flipped" else content[: len(content) // 2]
            )
            if damage == "gone":
                (bad / name).unlink()
            if name == SEAL and damage == "flipped":
                continue  # a letter of it is a hash or a name, found below
            with pytest.raises(ValueError, match=rf"{name}.* begin the training again without"):
                trainer(SMALL).resume(bad)
    (good / "progress.json").write_text('{"stage": "x", "more": 1}')
    seal(good, made.facts)
    with pytest.raises(ValueError, match=r"progress.json: no progress of a training"):
        trainer(SMALL).resume(good)


def test_early_stopping_keeps_the_best_weights(tmp_path):
    made, _ = fitted(tmp_path, ROUGH)
    for number, stage in enumerate(STAGES):
        told = [each[NDCG] for each in made.progress.history if each["stage"] == stage]
        best = int(np.argmax(told))
        assert len(told) == min(best + 1 + ROUGH.retriever.patience, 6)
        assert quality(made)[number] == pytest.approx(told[best])
    stopped = [each["stage"] for each in made.progress.history].count(STAGES[0])
    assert stopped < 6, "or nothing was stopped early"


def test_the_calibration_is_that_of_the_best_ranker(tmp_path):
    made, _ = fitted(tmp_path, config())
    retriever = made.retriever()
    seen = evaluation.scored(made.recommender(retriever), made.examples, made.chosen)
    for head in range(len(MODEL.heads)):
        labels, logits, _ = seen.flat(head)
        chances = made.recommender(retriever).calibration[head].apply(logits)
        assert chances.mean() == pytest.approx(labels.mean(), abs=1e-4)
    assert len(made.progress.calibration) == len(MODEL.heads)


def test_a_split_without_requests_is_refused_before_training():
    for splits in (Splits(SMALL.rows("train"), SMALL.rows("test")), Splits(np.zeros(0, int), ROWS)):
        with pytest.raises(ValueError, match=r"validate with a 'purchase'.*validate_from"):
            Trainer(SMALL.examples, splits, model=MODEL, serving=SERVING, train=config())


ROWS = SMALL.rows("validate")


def test_an_epoch_without_a_batch_is_refused(tmp_path):
    made = trainer(SMALL, config())
    with pytest.raises(ValueError, match="without one batch"):
        made.fit(lambda stage, epoch, batch: iter(()), best=tmp_path)


def test_the_tables_and_gradients_are_told(tmp_path):
    made, told = trainer(SMALL, config(batch=8)), []
    made.fit(feed_of(made), best=tmp_path, on_health=lambda *said: told.append(said))
    for stage in STAGES:
        figures = [found for name, found in told if name == stage]
        steps = [found for found in figures if "grad_norm" in found]
        tables = [found for found in figures if "item.id/norm" in found]
        assert len(tables) == 2
        assert steps
        assert all(0 < found["grad_norm"] <= found["grad_norm_max"] for found in steps)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_what_breaks_while_a_batch_is_made_is_told_as_it_was(tmp_path):
    made, beyond = trainer(SMALL, config()), len(SMALL.table)

    def feed(stage, epoch, batch):
        yield made.units(stage)[:batch]
        yield np.asarray([beyond])

    steps = []
    with pytest.raises(IndexError) as caught:
        made.fit(feed, best=tmp_path, on_step=lambda *said: steps.append(said))
    assert len(steps) == 1, "the good batch before it was trained on"
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "retriever_batch" in names
    assert not threads()


def test_a_step_that_breaks_closes_the_feed_and_ends_its_thread(tmp_path):
    closed = []

    def feed(stage, epoch, batch):
        try:
            while True:
                yield SMALL.rows("train")[: batch // 4]
        finally:
            closed.append(threading.current_thread().name)

    def on_step(*said):
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        trainer(SMALL, config()).fit(feed, best=tmp_path, on_step=on_step)
    assert closed == ["ahead"]
    assert not threads()


def test_a_batch_made_ahead_is_the_one_made_in_time():
    """What is trained in a stage has no part in its batches, so early is as good as late."""
    made = trainer(SMALL, config())
    for number, net in enumerate((made.towers, made.ranker)):
        work = made.work(number)
        rows = made.units(number)[:32]
        early = work.collate(rows, Step(seed=1, stage=number))
        with torch.no_grad():
            for weight in net.parameters():
                weight += 0.3
        torch.manual_seed(7)
        drawn = torch.random.get_rng_state()
        late = work.collate(rows, Step(seed=1, stage=number))
        assert torch.equal(torch.random.get_rng_state(), drawn), "torch's generator is the net's"
        given = [tensors(batch) for batch in (early, late)]
        assert all(torch.equal(one, other) for one, other in zip(*given, strict=True))
        assert not any(one.requires_grad for one in given[0])


def tensors(batch):
    """All of a batch's, without nan."""
    found = []
    for value in vars(batch).values():
        found += [value.nan_to_num(9)] if isinstance(value, torch.Tensor) else tensors(value)
    return found


def test_a_stage_is_as_its_own_config_says(tmp_path):
    train = config().model_copy(update={"ranker": StageConfig(epochs=1, batch=60)})
    made, losses = fitted(tmp_path, train)
    assert [each["stage"] for each in made.progress.history] == [STAGES[0]] * 2 + [STAGES[1]]
    assert sum(stage == STAGES[1] for stage, _, _ in losses) == 2
    assert made.progress.stage == len(STAGES)
