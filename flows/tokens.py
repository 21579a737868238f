"""The flows `train-tokenizer` and `encode-corpus`."""

import time
from functools import partial
from typing import Any, get_args

from flows.corpus import ensure_corpus
from flows.progress import human, metered, say
from flows.reports.artifacts import show_tokenizer, show_tokens
from flows.requests import EncodeRequest, InWorkspace, TokenizerRequest
from flows.session import ray_session
from flows.stage import stage
from flows.timing import note_seconds
from model.tokenizer import load_tokenizer
from pipelines.generation.build import build_tokens
from pipelines.generation.fanout import alone
from pipelines.spec.corpus import TokenizerKind
from pipelines.tokens.vocabulary import train_tokenizer
from storage.datasets.manifest import committed, load
from storage.workspace import Workspace


@stage("train-tokenizer", "tokenizer {request.tokenizer_name}")
def train_tokenizer_flow(request: TokenizerRequest) -> dict[str, Any]:
    """Train a SentencePiece tokenizer on a corpus's train split, or find it trained."""
    workspace, name = Workspace.create(request.workspace), request.tokenizer_name
    if request.make_missing:
        ensure_corpus(request, request.corpus)
    folder = workspace.tokenizer(name)
    corpus = load(workspace.corpus(request.corpus), f"corpus {request.corpus!r}")
    began = time.monotonic()
    train = partial(train_tokenizer, request.tokenizer_spec(), corpus, folder)
    if request.ray:
        with ray_session(request.ray, workspace.root):
            tokenizer, made = alone(train)
    else:
        tokenizer, made = train()
    seconds = time.monotonic() - began
    headline = f"tokenizer {name}: found, {tokenizer.size} pieces"
    if made:
        note_seconds(folder, seconds)
        headline = f"tokenizer {name}: {tokenizer.size} pieces in {seconds:.1f} s, exact round trip proven"
    say(headline)
    show_tokenizer(name, tokenizer, headline)
    return {"tokenizer": name, "location": str(folder), "identity": tokenizer.identity, "pieces": tokenizer.size}


@stage("encode-corpus", "encode {request.corpus} with {request.tokenizer_name}")
def encode_corpus(request: EncodeRequest) -> dict[str, Any]:
    """Turn a corpus's text into fixed-width rows of token ids, or find it done."""
    workspace, name = Workspace.create(request.workspace), request.tokenizer_name
    if request.make_missing:
        ensure_tokenizer(request, request.corpus, name)
    folder = workspace.tokens(request.corpus, name)
    corpus = load(workspace.corpus(request.corpus), f"corpus {request.corpus!r}")
    tokenizer, _ = load_tokenizer(workspace.tokenizer(name))
    began = time.monotonic()
    session = ray_session(request.ray, workspace.root)
    with session as cpus, metered("encode-corpus", f"encode {request.corpus}", corpus.manifest.rows) as meter:
        tokens, made = build_tokens(corpus, tokenizer, folder, in_flight=cpus, progress=meter.add, found=meter.found)
    seconds = time.monotonic() - began
    rows = tokens.manifest.rows
    headline = f"encode {request.corpus}: found, {rows:,} rows"
    if made:
        note_seconds(folder, seconds, add=True)
        headline = f"encode {request.corpus}: {rows:,} rows in {seconds:.1f} s, {human(rows / seconds)} rows/s"
    say(headline)
    show_tokens(tokens, headline)
    return {"corpus": request.corpus, "location": str(folder), "identity": tokens.manifest.identity, "rows": rows}


def ensure_tokenizer(asked: InWorkspace, corpus: str, name: str) -> None:
    """Train a tokenizer that isn't where something is `asked` for, and make its corpus, if their names say how."""
    ensure_corpus(asked, corpus)
    kind: Any = name.removeprefix(f"{corpus}-")
    if kind in get_args(TokenizerKind) and not Workspace.open(asked.workspace).tokenizer(name).exists():
        train_tokenizer_flow(TokenizerRequest(**asked.place, corpus=corpus, kind=kind))


def ensure_tokens(asked: InWorkspace, corpus: str, tokenizer: str) -> None:
    """Encode a corpus that isn't encoded yet, and make what that needs, if their names say how."""
    if not committed(Workspace.open(asked.workspace).tokens(corpus, tokenizer)):
        encode_corpus(EncodeRequest(**asked.place, corpus=corpus, tokenizer=tokenizer, make_missing=True))
