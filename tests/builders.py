"""Small corpora made without Ray, for tests that are about something else."""

from dataclasses import dataclass
from pathlib import Path

from model.config import EncoderConfig, TrainingSpec
from model.tokenizer import Tokenizer, TokenLayout, load_tokenizer
from pipelines.build import token_layouts
from pipelines.encode import ENCODER_VERSION, EncodeJob, encode_shard, encode_tasks
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
TINY_TRAINING = TrainingSpec(
    steps=12,
    batch_size=128,
    encoder=EncoderConfig(width=16, heads=2, layers=2, feedforward=32),
    validate_every=6,
    validation_rows=128,
    checkpoint_every=5,
    precision="float32",
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


def build_small(folder: Path, spec: CorpusSpec = SMALL) -> Built:
    """Corpus, tokenizer and tokens of `spec` below `folder`."""
    workspace = Workspace.create(str(folder / "workspace"))
    corpus = build_corpus_plainly(spec, workspace.corpus(spec.name))
    name = f"{spec.name}-digit"
    train_tokenizer(TokenizerSpec(sample_rows=2_000, proof_rows=500), corpus, workspace.tokenizer(name))
    tokenizer, _ = load_tokenizer(workspace.tokenizer(name))
    layouts = token_layouts(corpus.shards)
    layout = max(layouts.values(), key=lambda layout: layout.width)
    target = workspace.tokens(spec.name, name)
    job = EncodeJob(corpus.location, target, tokenizer, layouts)
    shards = [record for task in encode_tasks(corpus.shards) for record in encode_shard(job, task)]
    identity = {
        "corpus": corpus.manifest.identity,
        "tokenizer": tokenizer.identity,
        "layouts": {stratum: each.model_dump() for stratum, each in layouts.items()},
        "encoder_version": ENCODER_VERSION,
    }
    tokens = commit(
        target, kind="tokens", name=spec.name, generator_version=ENCODER_VERSION, spec=identity, shards=shards
    )
    return Built(workspace, spec, corpus, tokenizer, tokens, layout)
