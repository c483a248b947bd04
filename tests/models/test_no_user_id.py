"""No weight and no tensor depends on who a user is: an erased user is gone."""

import torch

from models.steps import Step
from tests.models.small import (
    MODEL,
    STAGE,
    TRAIN,
    Small,
    feed_of,
    planted,
    planted_rows,
    table_of,
    trainer,
)

NAMES = {f"user-{n:02}": f"{(n * 7) % 24:02}-somebody-else" for n in range(24)}


def renamed():
    """The planted world with other names, which also sort in another order."""
    return Small(table_of([{**row, "user_id": NAMES[row["user_id"]]} for row in planted_rows()]))


def test_users_under_other_names_make_the_same_batches():
    one, other = planted(), renamed()
    assert len(set(one.table["as_of"].to_pylist())) == len(one.table), "one order by time"
    assert one.table["user_id"].to_pylist() != other.table["user_id"].to_pylist()
    assert other.part.histories.users.to_pylist() == sorted(NAMES.values())
    makers = [trainer(world) for world in (one, other)]
    for stage in (0, 1):
        works = [made.work(stage) for made in makers]
        for units in feed_of(makers[0])(stage, 0, 32):
            batches = [_tensors(work.collate(units, Step(5, stage))) for work in works]
            assert batches[0].keys() == batches[1].keys()
            for name, tensor in batches[0].items():
                assert torch.equal(tensor.nan_to_num(-1), batches[1][name].nan_to_num(-1)), name


def _tensors(batch):
    found = {}
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            found[name] = value
        else:
            found |= {f"{name}.{part}": tensor for part, tensor in vars(value).items()}
    return found


def test_users_under_other_names_train_the_same_weights(tmp_path):
    short = TRAIN.model_copy(
        update={name: STAGE.model_copy(update={"epochs": 1}) for name in ("retriever", "ranker")}
    )
    weights = []
    for number, world in enumerate((planted(), renamed())):
        folder = tmp_path / str(number)
        folder.mkdir()
        trained = trainer(world, short)
        trained.fit(feed_of(trained), best=folder)
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
