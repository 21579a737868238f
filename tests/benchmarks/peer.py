"""One peer, in an environment of its own (`peers.txt`): it gives a rate for every line that it reads.

Imports nothing of Numerate's. `python peer.py bert|datasets|streaming JSON`; what it answers
is a line of JSON, the first of them when it is ready.
"""

import json
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable
from typing import Any

_WARM_STEPS = 3

Rate = Callable[[], float]


def bert(width: int, heads: int, layers: int, feedforward: int, pieces: int, slots: int, rows: list[list[int]],
         steps: int, threads: int, activation: str) -> tuple[Rate, str]:  # fmt: skip
    """Rows a second of a training step of `BertModel`, in the faster of bfloat16 and float32."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import BertConfig, BertModel

    torch.set_num_threads(threads)
    ids = torch.tensor(rows)
    config = BertConfig(
        vocab_size=pieces, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=feedforward, max_position_embeddings=ids.shape[1], hidden_act=activation,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model, head = BertModel(config, add_pooling_layer=False).train(), torch.nn.Linear(width, pieces)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3)

    def train(count: int, precision: torch.dtype) -> float:
        """Rows a second over some optimizer steps."""
        began = time.perf_counter()
        for _ in range(count):
            with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
                logits = head(model(ids).last_hidden_state[:, -slots:])
            cross_entropy(logits.float().flatten(0, 1), ids[:, -slots:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return count * len(ids) / (time.perf_counter() - began)

    rates = {}
    for precision in (torch.bfloat16, torch.float32):
        train(1, precision)
        rates[precision] = train(_WARM_STEPS, precision)
    chosen = max(rates, key=lambda precision: rates[precision])
    return lambda: train(steps, chosen), f"in {str(chosen).removeprefix('torch.')}"


def datasets(file: str, batch: int) -> tuple[Rate, str]:
    """Rows a second of one core from Parquet to torch batches, in the file's order."""
    import datasets
    import torch

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        found = datasets.load_dataset("parquet", data_files=file, split="train", cache_dir=cache, keep_in_memory=True)
    found = found.with_format("torch")

    def read() -> float:
        """One pass."""
        began, rows = time.process_time(), 0
        for values in found.iter(batch_size=batch):
            rows += len(values["tokens"].to(torch.uint8))
        return rows / (time.process_time() - began)

    return read, "in the file's order"


def streaming(file: str, batch: int) -> tuple[Rate, str]:
    """Rows a second of one core from MDS shards to torch batches, in the file's order."""
    # Pictures are not read here, and what reads them asks for torchvision, which is not installed.
    sys.modules["streaming.vision"] = types.ModuleType("streaming.vision")
    import numpy as np
    import pyarrow.parquet as pq
    from streaming import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    tokens = pq.read_table(file).column("tokens").combine_chunks()
    rows = np.asarray(tokens.values).reshape(len(tokens), -1)
    folder = tempfile.mkdtemp(prefix="peer-", dir=os.path.dirname(file))
    with MDSWriter(out=folder, columns={"tokens": f"ndarray:uint8:{rows.shape[1]}"}) as writer:
        for row in rows:
            writer.write({"tokens": row})

    def read() -> float:
        """One pass."""
        dataset = StreamingDataset(local=folder, batch_size=batch, shuffle=False, num_canonical_nodes=1)
        began, count = time.process_time(), 0
        for values in DataLoader(dataset, batch_size=batch):
            count += len(values["tokens"])
        return count / (time.process_time() - began)

    return read, "in the file's order"


def main() -> None:
    """Set up, say so, and give a rate a line."""
    # Libraries that write to standard output would disturb the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    work: dict[str, Callable[..., tuple[Rate, str]]] = {"bert": bert, "datasets": datasets, "streaming": streaming}
    values: dict[str, Any] = json.loads(sys.argv[2])
    rate, detail = work[sys.argv[1]](**values)
    print(json.dumps(detail), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(rate()), file=answers, flush=True)


if __name__ == "__main__":
    main()
