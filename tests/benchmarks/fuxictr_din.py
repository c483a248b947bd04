"""FuxiCTR's DIN for `bench_rank`, run by a Python of its own that has `fuxictr`.

    python3 -m venv fuxi && fuxi/bin/pip install torch fuxictr
    EBB_FUXICTR_PYTHON=fuxi/bin/python python -m tests.benchmarks.bench_rank

The PyPI package has the layers and the training step but no model zoo; `din` is its
`model_zoo/DIN/src/DIN.py` (Apache 2.0), shortened to the case of one target and one history.
Prints samples and CPU seconds of an epoch, feed included, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH, WIDTH, HISTORY = 4096, 16, 50
NUM_USERS, NUM_ITEMS, NUM_KINDS = 20_000, 5_000, 40
TARGET, SEQUENCE = ("item_id", "cate_id"), ("item_history", "cate_history")


def fields() -> list[dict[str, Any]]:
    sizes = {"user_id": NUM_USERS, "item_id": NUM_ITEMS, "cate_id": NUM_KINDS}
    plain = [
        {name: {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": size + 1}}
        for name, size in sizes.items()
    ]
    lists = [
        {
            name: {
                "source": "",
                "type": "sequence",
                "share_embedding": of,
                "padding_idx": 0,
                "vocab_size": sizes[of] + 1,
                "max_len": HISTORY,
                "feature_encoder": None,
            }
        }
        for name, of in zip(SEQUENCE, TARGET, strict=True)
    ]
    return [*plain, *lists]


def write(folder: Path, rows: int) -> None:
    """Rows with full histories, as a table of numbers and a feature map."""
    rng = np.random.default_rng(1)
    kind = rng.integers(1, NUM_KINDS + 1, NUM_ITEMS + 1)
    item = rng.integers(1, NUM_ITEMS + 1, rows)
    items = rng.integers(1, NUM_ITEMS + 1, (rows, HISTORY))
    columns = {
        "user_id": rng.integers(1, NUM_USERS + 1, rows),
        "item_id": item,
        "cate_id": kind[item],
        "item_history": items,
        "cate_history": kind[items],
        "label": rng.integers(0, 2, rows),
    }
    np.savez(folder / "train.npz", **columns)
    known = {"dataset_id": "din", "labels": ["label"], "num_fields": 5, "features": fields()}
    known |= {"total_features": 0, "input_length": 3 + 2 * HISTORY}
    (folder / "feature_map.json").write_text(json.dumps(known))


def din(known: Any) -> Any:
    """The model, with the optimizer in it."""
    import torch
    from fuxictr.pytorch.layers import DIN_Attention, FeatureEmbeddingDict, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    class DIN(BaseModel):
        def __init__(self) -> None:
            super().__init__(
                known, model_id="DIN", gpu=-1, metrics=["AUC"], verbose=0, model_root=known.data_dir
            )
            self._max_gradient_norm = 10.0
            self.embedding_layer = FeatureEmbeddingDict(known, WIDTH)
            self.attention = DIN_Attention(
                2 * WIDTH, attention_units=[64], hidden_activations="Dice", use_softmax=False
            )
            self.dnn = MLP_Block(
                input_dim=known.sum_emb_out_dim(),
                output_dim=1,
                hidden_units=[256, 128],
                hidden_activations="ReLU",
                output_activation=self.output_activation,
            )
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: Any) -> Any:
            given = self.get_inputs(inputs)
            found = self.embedding_layer(given)
            target, history = (
                torch.cat([found[name] for name in names], -1) for names in (TARGET, SEQUENCE)
            )
            pooled = self.attention(target, history, given["item_history"].long() != 0)
            found |= dict(zip(SEQUENCE, pooled.split(WIDTH, -1), strict=True))
            flat = self.embedding_layer.dict2tensor(found, flatten_emb=True)
            return {"y_pred": self.dnn(flat)}

    return DIN()


def main() -> None:
    import torch
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader

    torch.set_num_threads(1)
    batches = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, (batches + 2) * BATCH)
        known = FeatureMap("din", name)
        known.load(str(folder / "feature_map.json"), {"embedding_dim": WIDTH})
        model = din(known).train()
        feed, _ = RankDataLoader(
            known, "train", str(folder / "train.npz"), batch_size=BATCH, num_workers=0
        )
        for number, batch in enumerate(feed):
            if number == 2:
                begin = time.process_time()
            model.train_step(batch)
    print(json.dumps({"samples": batches * BATCH, "seconds": time.process_time() - begin}))


if __name__ == "__main__":
    main()
