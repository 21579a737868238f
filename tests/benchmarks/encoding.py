"""Encoding: text to token rows, against SentencePiece's own batch call."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from model.tokenizer import BLANK, PAD, Tokenizer, TokenLayout
from pipelines.generation.build import token_layouts
from pipelines.generation.generate import RangeTask, generate_range, sample_rows
from pipelines.problems.components import components
from pipelines.spec.corpus import TokenizerSpec
from pipelines.spec.presets import CORPORA
from pipelines.tokens.encode import EncodeJob, encode_rows, encode_shard, encode_tasks
from pipelines.tokens.vocabulary import train_pieces
from storage.places.disk import LocalLocation
from tests.benchmarks.measure import Figure, best_of, core_seconds, ratio
from tests.benchmarks.tokenizers import digit_tokenizer, learnt_tokenizer

_ROWS = 1 << 18
_SHARD_ROWS = 1 << 21
_GROUPS: tuple[Literal["pairs", "triples"], ...] = ("pairs", "triples")
_LEARNT: tuple[Literal["bpe", "unigram"], ...] = ("bpe", "unigram")


def against_sentencepiece(folder: Path) -> Iterator[Figure]:
    """The same problems of the notebook to the same ids, one core."""
    spec, tokenizer = CORPORA["notebook"], digit_tokenizer()
    table, _ = sample_rows(spec, components(spec)[0], _ROWS)
    layout = TokenLayout(problem=11, answer=4)
    lines = pc.binary_join_element_wise(table["problem"], table["answer"], "=").to_pylist()

    def ours() -> float:
        """Our rows a second."""
        return _ROWS / best_of(lambda: encode_rows(table, tokenizer, layout), 3, core_seconds)

    def peer() -> float:
        """SentencePiece's rows a second."""
        return _ROWS / core_seconds(lambda: tokenizer.processor.encode(lines, out_type=int, num_threads=1))

    encoded = encode_rows(table, tokenizer, layout)
    fillers = [tokenizer.id_of(PAD), tokenizer.id_of(BLANK)]
    text = encoded[~np.isin(encoded, fillers)].tolist()
    assert text == [token for ids in tokenizer.processor.encode(lines) for token in ids], "the ids differ"
    mine, theirs, times = ratio(ours, peer, 5)
    yield Figure("encode, rows in memory", mine / 1e6, "M rows/s/core")
    detail = f"{mine / 1e6:.2f} M against {theirs / 1e6:.2f} M rows/s, same ids"
    yield Figure("SentencePiece's batch call", times, "×", 8, detail=detail)


def by_kind(folder: Path) -> Iterator[Figure]:
    """The notebook's rows in memory to ids, by each other kind of tokenizer, one core."""
    spec, layout = CORPORA["notebook"], TokenLayout(problem=11, answer=4)
    table, _ = sample_rows(spec, components(spec)[0], _ROWS)
    groups = {kind: Tokenizer(train_pieces([], TokenizerSpec(kind=kind))) for kind in _GROUPS}
    for kind, tokenizer in {**groups, **{kind: learnt_tokenizer(kind) for kind in _LEARNT}}.items():
        taken = best_of(lambda tokenizer=tokenizer: encode_rows(table, tokenizer, layout), 3, core_seconds)
        yield Figure(f"encode by {kind}, {tokenizer.size} pieces", _ROWS / taken / 1e6, "M rows/s/core")


def of_shards(folder: Path) -> Iterator[Figure]:
    """A shard of the notebook to a shard of tokens, reading, checking and writing included, one core."""
    spec = CORPORA["notebook"]
    corpus = LocalLocation(folder / "corpus")
    shards = tuple(generate_range(spec, corpus, RangeTask(0, components(spec)[0], 0, _SHARD_ROWS)))
    job = EncodeJob(corpus, LocalLocation(folder / "tokens"), digit_tokenizer(), token_layouts(shards))
    taken = best_of(lambda: [encode_shard(job, task) for task in encode_tasks(shards)], 3, core_seconds)
    for place in ("corpus", "tokens"):
        shutil.rmtree(folder / place)
    yield Figure("encode, shard to shard", _SHARD_ROWS / taken / 1e6, "M rows/s/core")
