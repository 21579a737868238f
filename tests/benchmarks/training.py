"""A training step against PyTorch's own encoder and Hugging Face's BERT, and how fast rows reach it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.config.encoder import EncoderConfig
from model.config.training import TrainingSpec
from model.network.encoder import Encoder
from model.runs.metrics import step_seconds
from model.tokenizer import TokenLayout
from model.training.batches import Batches
from model.training.hardware import precision_of
from model.training.preflight import prepare
from model.training.trainer import train
from pipelines.generation.build import token_layouts
from pipelines.generation.generate import RangeTask, generate_range, sample_rows
from pipelines.problems.components import components
from pipelines.spec.presets import CORPORA
from pipelines.tokens.encode import ENCODER_VERSION, EncodeJob, encode_rows, encode_shard, encode_tasks
from storage.datasets.manifest import Dataset, commit
from storage.places.disk import LocalLocation
from storage.places.place import Location
from storage.reading.lanes import LanePlan
from tests.benchmarks.measure import Figure, core_seconds, ratio, seconds
from tests.benchmarks.peers import PeerMissingError, peer
from tests.benchmarks.tokenizers import digit_tokenizer
from tests.benchmarks.torch_encoder import TorchEncoder
from tests.builders import build_small

_STEPS, _BATCH, _SLOTS, _WIDTH = 10, 512, 4, 16
_ROWS = 1 << 22
_PEER_ROWS = 1 << 18


def against_torch(folder: Path) -> Iterator[Figure]:
    """Rows a second of a training step on two cores, AdamW for both, in the arithmetic that training takes here."""
    config, ids, ours = _ours()
    theirs = _trainer(TorchEncoder(config, digit_tokenizer().size, _WIDTH, _SLOTS), ids)
    yield _step_figure("torch.nn.TransformerEncoder", config, ratio(ours, theirs, 7))


def against_bert(folder: Path) -> Iterator[Figure]:
    """The same against `transformers.BertModel`, as it is and with our activation."""
    config, ids, ours = _ours()
    shape = config.model_dump(include={"width", "heads", "layers", "feedforward"})
    more = {"pieces": digit_tokenizer().size, "slots": _SLOTS, "rows": ids.tolist(), "steps": _STEPS, "threads": 2}
    for activation in ("gelu", "relu"):
        try:
            with peer("bert", **shape, **more, activation=activation) as bert:
                rates = ratio(ours, bert.rate, 7)
                yield _step_figure(f"transformers.BertModel with {activation}", config, rates, bert.detail)
        except PeerMissingError as error:
            print(f"transformers.BertModel is left out: {error}")


def _ours() -> tuple[EncoderConfig, Tensor, Callable[[], float]]:
    """The default encoder, a batch of the notebook's rows, and the rate of its training steps."""
    torch.set_num_threads(2)
    tokenizer = digit_tokenizer()
    spec = CORPORA["notebook"]
    table, _ = sample_rows(spec, components(spec)[0], _BATCH)
    rows = encode_rows(table, tokenizer, TokenLayout(problem=_WIDTH - _SLOTS - 1, answer=_SLOTS))
    ids = torch.from_numpy(rows).long()
    config = EncoderConfig()
    encoder = Encoder(config, tokenizer)
    encoder.initialise(0)
    return config, ids, _trainer(encoder, ids, _SLOTS)


def _step_figure(what: str, config: EncoderConfig, rates: tuple[float, float, float], more: str = "") -> Figure:
    mine, theirs, times = rates
    detail = f"{mine:,.0f} against {theirs:,.0f} rows/s {more}".rstrip()
    detail += f", width {config.width}, {config.layers} layers, batch {_BATCH}"
    return Figure(f"{what}, a training step", times, "×", 1.5, 1.5, detail)


def _trainer(model: nn.Module, ids: Tensor, *slots: int) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    precision = precision_of("auto", torch.device("cpu"))

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


def loop(folder: Path) -> Iterator[Figure]:
    """Rows a second of the default training against its bare step: what Muon, reading, masks and metrics cost."""
    _, _, bare = _ours()
    spec = CORPORA["notebook"].model_copy(update={"name": "bench", "rows": 1 << 22})
    built = build_small(folder, spec)
    training = TrainingSpec(steps=80, batch_size=_BATCH)
    runs = iter(range(100))

    def ours() -> float:
        """A training in this process; its first steps, and its validation at the end, do not count."""
        (job,) = prepare(built.workspace, f"run-{next(runs)}", spec.name, f"{spec.name}-digit", training)
        train(replace(job, threads=2))
        return _BATCH / step_seconds(job.run / "metrics")

    mine, theirs, times = ratio(ours, bare, 5)
    detail = f"{mine:,.0f} against {theirs:,.0f} rows/s, batch {_BATCH}"
    yield Figure("the training loop against a bare step with AdamW", times, "×", 0.95, 0.75, detail)


def reading(folder: Path) -> Iterator[Figure]:
    """From shards through DuckDB to tensors, one core, in training's own order; and what a plan costs at 10⁹ rows."""
    tokens = _tokens(LocalLocation(folder / "corpus"), LocalLocation(folder / "tokens"))
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
    mine, theirs, times = ratio(lambda: read(""), lambda: _plain_rate(tokens, batch), 5)
    detail = f"{mine / 1e6:.2f} M against {theirs / 1e6:.2f} M rows/s of one core, in the file's order"
    yield Figure("reading, DuckDB to tensor, against pyarrow", times, "×", least=0.1, detail=detail)
    yield from _against_readers(tokens, folder, lambda: read(""), batch)
    read("carries = 1")
    yield Figure("reading with a predicate", read("carries = 1") / 1e6, "M rows/s/core")
    shutil.rmtree(folder / "corpus")
    _, _, times = ratio(lambda: 1 / _plan_seconds(), lambda: 1 / seconds(_shuffle), 5)
    detail = f"{_plan_seconds() * 1e3:.1f} ms against {seconds(_shuffle) * 1e3:.0f} ms"
    yield Figure("plan of an epoch of 10⁹ rows, against numpy shuffling 10⁷", times, "×", 10, detail=detail)


def _plain_rate(tokens: Dataset, batch: int) -> float:
    """Rows a second of one core that pyarrow reads as tensors, in the file's order."""
    shard = tokens.checked(tokens.of_split("train")[0])

    def read() -> None:
        """One pass."""
        for rows in pq.ParquetFile(shard.path).iter_batches(batch, columns=["tokens"], use_threads=False):
            column = rows.column(0)
            width = column.type.byte_width
            values = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, width)
            torch.from_numpy(values[column.offset : column.offset + len(column)].copy())

    return pq.ParquetFile(shard.path).metadata.num_rows / core_seconds(read)


def _shuffle() -> None:
    np.random.default_rng(0).permutation(10**7)


def _against_readers(tokens: Dataset, folder: Path, ours: Callable[[], float], batch: int) -> Iterator[Figure]:
    """Libraries that read the same rows in the order of their file, while ours come in training's."""
    file = _as_lists(tokens, folder / "rows.parquet")
    for name, library in (("datasets", "Hugging Face datasets"), ("streaming", "MosaicML streaming")):
        try:
            with peer(name, file=str(file), batch=batch) as reader:
                reader.rate()
                mine, theirs, times = ratio(ours, reader.rate, 3)
        except PeerMissingError as error:
            print(f"{library} is left out: {error}")
            continue
        detail = f"{mine / 1e6:.2f} M against {theirs / 1e6:.2f} M rows/s {reader.detail}"
        yield Figure(f"reading, {library}", times, "×", detail=detail)


def _as_lists(tokens: Dataset, file: Path) -> Path:
    """Rows of the train split as lists of numbers, which is how those libraries take them."""
    shard = tokens.checked(tokens.of_split("train")[0])
    rows = pq.ParquetFile(shard.path).read(columns=["tokens"]).slice(0, _PEER_ROWS).column(0).combine_chunks()
    width = rows.type.byte_width
    numbers = pa.array(np.frombuffer(b"".join(rows.to_pylist()), np.uint8))
    pq.write_table(pa.table({"tokens": pa.FixedSizeListArray.from_arrays(numbers, width)}), file)
    return file


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
