"""A training step against PyTorch's own encoder, and how fast rows reach it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.batches import Batches
from model.config import EncoderConfig, TrainingSpec
from model.encoder import Encoder
from model.optimizer import precision_of
from model.tokenizer import TokenLayout
from pipelines.build import token_layouts
from pipelines.components import components
from pipelines.encode import ENCODER_VERSION, EncodeJob, encode_rows, encode_shard, encode_tasks
from pipelines.generate import RangeTask, generate_range, sample_table
from pipelines.presets import CORPORA
from storage.lanes import LanePlan
from storage.location import Location
from storage.manifest import Dataset, commit
from tests.benchmarks.measure import Figure, core_seconds, ratio, seconds
from tests.benchmarks.tokenizers import digit_tokenizer

_STEPS, _BATCH, _SLOTS, _WIDTH = 10, 512, 4, 16
_ROWS = 1 << 22


class TorchEncoder(nn.Module):
    """PyTorch's own layers, of the same shape, with learned positions."""

    def __init__(self, config: EncoderConfig, pieces: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(pieces, config.width)
        self.places = nn.Parameter(torch.zeros(_WIDTH, config.width))
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feedforward, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.head = nn.Linear(config.width, pieces)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [n, slots, pieces] of the slots."""
        return self.head(self.layers(self.tokens(ids) + self.places)[:, -_SLOTS:])


def against_torch(folder: Path) -> Iterator[Figure]:
    """Rows a second of a training step on two cores, AdamW for both, in the arithmetic that training takes here."""
    torch.set_num_threads(2)
    tokenizer = digit_tokenizer()
    spec = CORPORA["notebook"]
    table, _ = sample_table(spec, components(spec)[0], _BATCH)
    rows = encode_rows(table, tokenizer, TokenLayout(problem=_WIDTH - _SLOTS - 1, answer=_SLOTS))
    ids = torch.from_numpy(rows).long()
    config = EncoderConfig()
    encoder = Encoder(config, tokenizer)
    encoder.initialise(0)
    ours, theirs = _trainer(encoder, ids, _SLOTS), _trainer(TorchEncoder(config, tokenizer.size), ids)
    mine, peer, times = ratio(ours, theirs, 7)
    detail = f"{mine:,.0f} against {peer:,.0f} rows/s, width {config.width}, {config.layers} layers, batch {_BATCH}"
    yield Figure("torch.nn.TransformerEncoder, a training step", times, "×", 1.5, detail=detail)


def _trainer(model: nn.Module, ids: Tensor, *slots: int) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    precision = precision_of(TrainingSpec(), torch.device("cpu"))

    def step() -> None:
        """One optimizer step."""
        with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
            logits = model(ids, *slots)
        cross_entropy(logits.float().flatten(0, 1), ids[:, -_SLOTS:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def rate() -> float:
        """Rows a second."""
        return _STEPS * _BATCH / seconds(lambda: [step() for _ in range(_STEPS)])

    rate()
    return rate


def reading(folder: Path) -> Iterator[Figure]:
    """From shards through DuckDB to tensors, one core, in training's own order; and what a plan costs at 10⁹ rows."""
    tokens = _tokens(Location(folder / "corpus"), Location(folder / "tokens"))
    # Several windows, of which each is read while the one before is used.
    steps, batch = 2_500, 4_096

    def read(where: str) -> float:
        """Rows a second of one core."""
        batches = Batches.of(tokens, "train", batch, 0, where).reader.batches(0)
        next(batches)
        taken = core_seconds(lambda: [torch.from_numpy(next(batches)[1]) for _ in range(steps)])
        batches.close()
        return steps * batch / taken

    read("")
    yield Figure("reading, DuckDB to tensor", read("") / 1e6, "M rows/s/core", 5)
    read("carries = 1")
    yield Figure("reading with a predicate", read("carries = 1") / 1e6, "M rows/s/core")
    shutil.rmtree(folder / "corpus")
    yield Figure("plan of an epoch of 10⁹ rows", _plan_seconds() * 1e3, "ms", 50, at_most=True)


def _plan_seconds() -> float:
    def plan() -> None:
        """Plan, and find the first window of every lane."""
        made = LanePlan((1 << 21,) * 477, 4_096, 3)
        for lane in range(64):
            made.segments(0, lane, 0, made.window_rows(16))

    return seconds(plan)


def _tokens(corpus: Location, target: Location) -> Dataset:
    spec = CORPORA["notebook"]
    shards = tuple(generate_range(spec, corpus, RangeTask(0, components(spec)[0], 0, _ROWS)))
    layouts = token_layouts(shards)
    job = EncodeJob(corpus, target, digit_tokenizer(), layouts)
    encoded = [record for task in encode_tasks(shards) for record in encode_shard(job, task)]
    values = {"layouts": {name: layout.model_dump() for name, layout in layouts.items()}}
    return commit(target, kind="tokens", name="bench", generator_version=ENCODER_VERSION, spec=values, shards=encoded)
