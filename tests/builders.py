"""Small corpora made without Ray, for tests that are about something else."""

import os
from dataclasses import dataclass
from pathlib import Path

from model.config import EncoderConfig, TrainingSpec
from model.tokenizer import Tokenizer, TokenLayout, load_tokenizer
from pipelines.build import token_layouts, tokens_identity
from pipelines.encode import ENCODER_VERSION, EncodeJob, encode_shard, encode_tasks, in_tokens
from pipelines.generate import GENERATOR_VERSION, generate_range, range_tasks
from pipelines.spec import CorpusSpec, TokenizerSpec
from pipelines.vocabulary import train_tokenizer
from storage.location import Location, Workspace
from storage.manifest import Dataset, commit

SMALL = CorpusSpec(name="small", terms=2, rows_per_shard=3_000, validation=0.1, test=0.1)
# Numbers of one to nine digits: rows of two widths.
LONGER = CorpusSpec(
    name="longer",
    family="digits",
    terms=2,
    digits=9,
    operators=("+", "-"),
    rows=6_000,
    rows_per_shard=3_000,
    validation=0.1,
    test=0.1,
)
SMALL_TOKENIZER = TokenizerSpec(sample_rows=2_000, proof_rows=500)
# Every kind of tokenizer; the ids of triples and unigram take two bytes.
TOKENIZERS = {
    kind: SMALL_TOKENIZER.model_copy(update={"kind": kind, "vocabulary": vocabulary})
    for kind, vocabulary in {"digit": 256, "pairs": 256, "triples": 256, "bpe": 256, "unigram": 400}.items()
}
TINY_TRAINING = TrainingSpec(
    steps=12,
    batch_size=128,
    encoder=EncoderConfig(width=16, heads=2, layers=2, feedforward=32),
    validate_every=6,
    validation_rows=128,
    checkpoint_every=5,
    # `make test-portable` sets another.
    precision=os.environ.get("NUMERATE_TEST_PRECISION", "float32"),
)


@dataclass(frozen=True)
class Built:
    """A workspace with one corpus."""

    workspace: Workspace
    spec: CorpusSpec
    corpus: Dataset
    tokenizer: Tokenizer
    tokens: Dataset
    layout: TokenLayout
    """The widest."""


def build_corpus_plainly(spec: CorpusSpec, folder: Location) -> Dataset:
    """The corpus of `build_corpus`, one range after the other in this process."""
    shards = [record for task in range_tasks(spec) for record in generate_range(spec, folder, task)]
    identity = {**spec.identity(), "generator_version": GENERATOR_VERSION}
    return commit(
        folder, kind="corpus", name=spec.name, generator_version=GENERATOR_VERSION, spec=identity, shards=shards
    )


def build_small(folder: Path, spec: CorpusSpec = SMALL, tokens: TokenizerSpec = SMALL_TOKENIZER) -> Built:
    """Corpus, tokenizer and tokens of `spec` below `folder`."""
    workspace = Workspace.create(str(folder / "workspace"))
    corpus = build_corpus_plainly(spec, workspace.corpus(spec.name))
    return encode_plainly(workspace, spec, corpus, tokens)


def encode_plainly(workspace: Workspace, spec: CorpusSpec, corpus: Dataset, tokens: TokenizerSpec) -> Built:
    """Tokenizer and tokens of a corpus that lies there."""
    name = f"{spec.name}-{tokens.kind}"
    train_tokenizer(tokens, corpus, workspace.tokenizer(name))
    tokenizer, _ = load_tokenizer(workspace.tokenizer(name))
    layouts = token_layouts([in_tokens(corpus.location, tokenizer, shard) for shard in corpus.shards])
    layout = max(layouts.values(), key=lambda layout: layout.width)
    target = workspace.tokens(spec.name, name)
    job = EncodeJob(corpus.location, target, tokenizer, layouts)
    shards = [record for task in encode_tasks(corpus.shards) for record in encode_shard(job, task)]
    encoded = commit(
        target,
        kind="tokens",
        name=spec.name,
        generator_version=ENCODER_VERSION,
        spec=tokens_identity(corpus, tokenizer, layouts),
        shards=shards,
    )
    return Built(workspace, spec, corpus, tokenizer, encoded, layout)
