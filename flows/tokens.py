"""The flows `train-tokenizer` and `encode-corpus`."""

import time
from typing import Any

from prefect import flow

from flows.progress import human, metered, say
from flows.requests import EncodeRequest, TokenizerRequest
from flows.session import ray_session
from flows.timing import note_seconds
from model.tokenizer import load_tokenizer
from pipelines.build import build_tokens
from pipelines.vocabulary import train_tokenizer
from storage.location import Workspace
from storage.manifest import load


@flow(name="train-tokenizer", flow_run_name="tokenizer of {request.corpus}", persist_result=False)
def train_tokenizer_flow(request: TokenizerRequest) -> dict[str, Any]:
    """Train a SentencePiece tokenizer on a corpus's train split, or find it trained."""
    workspace, name = Workspace.create(request.workspace), request.tokenizer_name
    folder = workspace.tokenizer(name)
    corpus = load(workspace.corpus(request.corpus), f"corpus {request.corpus!r}")
    began = time.monotonic()
    tokenizer, made = train_tokenizer(request.tokenizer_spec(), corpus, folder)
    seconds = time.monotonic() - began
    if made:
        note_seconds(folder, seconds)
        say(f"tokenizer {name}: {tokenizer.size} pieces in {seconds:.1f} s, exact round trip proven")
    else:
        say(f"tokenizer {name}: found, {tokenizer.size} pieces")
    return {"tokenizer": name, "location": str(folder), "identity": tokenizer.identity, "pieces": tokenizer.size}


@flow(name="encode-corpus", flow_run_name="encode {request.corpus}", persist_result=False)
def encode_corpus(request: EncodeRequest) -> dict[str, Any]:
    """Turn a corpus's text into fixed-width rows of token ids, or find it done."""
    workspace, name = Workspace.create(request.workspace), request.tokenizer_name
    folder = workspace.tokens(request.corpus, name)
    corpus = load(workspace.corpus(request.corpus), f"corpus {request.corpus!r}")
    tokenizer, _ = load_tokenizer(workspace.tokenizer(name))
    began = time.monotonic()
    session = ray_session(request.ray, workspace.root)
    with session as cpus, metered("encode-corpus", f"encode {request.corpus}", corpus.manifest.rows) as meter:
        tokens, made = build_tokens(corpus, tokenizer, folder, in_flight=cpus, progress=meter.add)
    seconds = time.monotonic() - began
    rows = tokens.manifest.rows
    if made:
        note_seconds(folder, seconds, add=True)
        say(f"encode {request.corpus}: {rows:,} rows in {seconds:.1f} s, {human(rows / seconds)} rows/s")
    else:
        say(f"encode {request.corpus}: found, {rows:,} rows")
    return {"corpus": request.corpus, "location": str(folder), "identity": tokens.manifest.identity, "rows": rows}
