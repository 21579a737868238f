"""Small corpora, tokenizers and token datasets, built without Ray."""

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.config.encoder import EncoderConfig
from model.config.training import TrainingSpec
from model.tokenizer import Tokenizer, TokenLayout, load_tokenizer
from pipelines.generation.build import corpus_identity, token_layouts, tokens_identity
from pipelines.generation.generate import generate_range, range_tasks
from pipelines.spec.corpus import CorpusSpec, TokenizerSpec
from pipelines.tokens.encode import ENCODER_VERSION, EncodeJob, encode_shard, encode_tasks, in_tokens
from pipelines.tokens.vocabulary import train_tokenizer
from storage.datasets.manifest import SPLITS, Dataset, ShardRecord, commit, hash_of, load
from storage.places.place import Location
from storage.workspace import Workspace

SMALL = CorpusSpec(name="small", terms=2, rows_per_shard=3_000, validation=0.1, test=0.1)
# Numbers of one to nine digits, which give rows of two widths.
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
# One tokenizer of each kind; the ids of triples and unigram take two bytes.
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
    # `make test-portable` sets other precisions.
    precision=os.environ.get("NUMERATE_TEST_PRECISION", "float32"),
)


@dataclass(frozen=True)
class Built:
    """A workspace with a corpus, its tokenizer and its tokens."""

    workspace: Workspace
    spec: CorpusSpec
    corpus: Dataset
    tokenizer: Tokenizer
    tokens: Dataset
    layout: TokenLayout
    """The widest layout of the tokens."""


def build_corpus_plainly(spec: CorpusSpec, folder: Location, version: int = 3) -> Dataset:
    """The same corpus as `build_corpus` builds, range by range in this process, in a schema version."""
    former = version == 2
    shards = [record for task in range_tasks(spec) for record in generate_range(spec, folder, task, former=former)]
    identity, write = corpus_identity(spec), commit_version_2 if former else commit
    generator = identity["generator_version"]
    return write(folder, kind="corpus", name=spec.name, generator_version=generator, spec=identity, shards=shards)


def commit_version_2(
    folder: Location, *, kind: str, name: str, generator_version: int, spec: dict[str, Any], shards: list[ShardRecord]
) -> Dataset:
    """Commit a dataset in schema version 2, as `commit` did up to Git commit 7d43f43.

    The list of shards has a fixed name, and the manifest has no `contents`.
    """
    columns = {
        "path": pa.string(),
        "split": pa.string(),
        "stratum": pa.string(),
        "rows": pa.int64(),
        "bytes": pa.int64(),
    }
    columns |= {
        "sha256": pa.string(),
        "content": pa.string(),
        "problem_length": pa.int32(),
        "answer_digits": pa.int32(),
    }
    schema = pa.schema([pa.field(column, dtype, nullable=False) for column, dtype in columns.items()])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([shard._asdict() for shard in shards], schema), sink, compression="zstd")
    manifest = {
        "kind": kind,
        "name": name,
        "schema_version": 2,
        "generator_version": generator_version,
        "spec": spec,
        "spec_hash": hash_of(spec),
        "rows": sum(shard.rows for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
        "split_rows": {split: sum(shard.rows for shard in shards if shard.split == split) for split in SPLITS},
        "writer": f"pyarrow {pa.__version__}",
        "shards_sha256": hashlib.sha256(sink.getvalue()).hexdigest(),
    }
    (folder / "shards.parquet").write(sink.getvalue())
    (folder / "manifest.json").write((json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    return load(folder, name)


def data_files(folder: Path) -> dict[str, bytes]:
    """Contents of a dataset's files by path: the shards and the manifest, which are the same in every build."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.name not in (".lock", "made.json", "README.md")
        and path.relative_to(folder).parts[0] != "tokens"
    }


def contents(place: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and inodes of a file, or of all files of a folder, by path."""
    files = (path for path in (place, *place.rglob("*")) if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_ino) for path in files}


def build_small(
    folder: Path, spec: CorpusSpec = SMALL, tokens: TokenizerSpec = SMALL_TOKENIZER, version: int = 3
) -> Built:
    """Build corpus, tokenizer and tokens of `spec` below `folder`, in a schema version."""
    workspace = Workspace.create(str(folder / "workspace"))
    corpus = build_corpus_plainly(spec, workspace.corpus(spec.name), version)
    return encode_plainly(workspace, spec, corpus, tokens, version)


def encode_plainly(
    workspace: Workspace, spec: CorpusSpec, corpus: Dataset, tokens: TokenizerSpec, version: int = 3
) -> Built:
    """Build tokenizer and tokens of an existing corpus."""
    name = f"{spec.name}-{tokens.kind}"
    train_tokenizer(tokens, corpus, workspace.tokenizer(name))
    tokenizer, _ = load_tokenizer(workspace.tokenizer(name))
    # With a token per character, the shards' lengths in characters are those in tokens.
    by_character = tokenizer.group == 1
    measured = [shard if by_character else in_tokens(corpus.location, tokenizer, shard) for shard in corpus.shards]
    layouts = token_layouts(measured)
    layout = max(layouts.values(), key=lambda layout: layout.width)
    target = workspace.tokens(spec.name, name)
    job = EncodeJob(corpus.location, target, tokenizer, layouts, former=version == 2)
    shards = [record for task in encode_tasks(corpus.shards) for record in encode_shard(job, task)]
    encoded = (commit_version_2 if version == 2 else commit)(
        target,
        kind="tokens",
        name=spec.name,
        generator_version=ENCODER_VERSION,
        spec=tokens_identity(corpus, tokenizer, layouts),
        shards=shards,
    )
    return Built(workspace, spec, corpus, tokenizer, encoded, layout)
