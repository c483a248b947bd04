"""No weight and no tensor depends on who a user is: an erased user is gone."""

import numpy as np
import torch

from models.training import NegativeSampler, retriever_batch
from tests.models.small import MODEL, STAGE, TRAIN, Small, planted, planted_rows, table_of, trainer

NAMES = {f"user-{n:02}": f"{(n * 7) % 24:02}-somebody-else" for n in range(24)}


def renamed():
    """The planted world with other names, which also sort in another order."""
    return Small(table_of([{**row, "user_id": NAMES[row["user_id"]]} for row in planted_rows()]))


def test_users_under_other_names_make_the_same_batches():
    one, other = planted(), renamed()
    assert len(set(one.table["as_of"].to_pylist())) == len(one.table), "one order by time"
    assert one.table["user_id"].to_pylist() != other.table["user_id"].to_pylist()
    assert other.part.histories.users.to_pylist() == sorted(NAMES.values())
    for rows in one.feed(0, 0, 32):
        batches = [_tensors(world, rows) for world in (one, other)]
        assert batches[0].keys() == batches[1].keys()
        for name, tensor in batches[0].items():
            assert torch.equal(tensor, batches[1][name]), name


def _tensors(world, rows):
    examples = world.examples
    outcomes = examples.requests.pairs(world.rows("train"))[1]
    batch = retriever_batch(
        examples,
        rows,
        target=0,
        sampler=NegativeSampler(outcomes, len(examples.catalogue), 32),
        config=TRAIN,
        generator=np.random.default_rng(5),
    )
    places = torch.arange(len(examples.catalogue)).expand(len(rows), -1)
    return {
        **{f"user.{name}": value for name, value in vars(batch.user).items()},
        **{name: value for name, value in vars(batch).items() if name != "user"},
        "labels": examples.labels(rows, places, len(MODEL.heads)),
    }


def test_users_under_other_names_train_the_same_weights(tmp_path):
    short = TRAIN.model_copy(
        update={name: STAGE.model_copy(update={"epochs": 1}) for name in ("retriever", "ranker")}
    )
    weights = []
    for number, world in enumerate((planted(), renamed())):
        folder = tmp_path / str(number)
        folder.mkdir()
        trained = trainer(world, short)
        trained.fit(world.feed, best=folder)
        weights.append({**trained.towers.state_dict(), **trained.ranker.state_dict()})
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_no_table_has_a_row_for_each_user():
    made = trainer(planted())
    expected = {
        *(len(made.examples.catalogue), MODEL.features.text_buckets),
        *(MODEL.features.context_buckets, 64, 32, 8, 6),
    }
    for net in (made.towers, made.ranker):
        for module in net.modules():
            if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag):
                assert module.num_embeddings in expected
