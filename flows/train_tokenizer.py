"""The flow `train-tokenizer`."""

import time
from functools import partial
from typing import Any, get_args

from flows.common.engines import ray_session
from flows.common.flow import flow
from flows.common.parameters import InWorkspace, TokenizerRequest
from flows.common.progress import say
from flows.common.timing import note_seconds
from flows.generate_corpus import ensure_corpus
from flows.reports.artifacts import show_tokenizer
from pipelines.generation.fanout import run_remotely
from pipelines.spec.corpus import TokenizerKind, TokenizerSpec
from pipelines.tokens import vocabulary
from storage.datasets.manifest import load
from storage.workspace import Workspace


@flow(name="train-tokenizer", flow_run_name="tokenizer {request.tokenizer_name}")
def train_tokenizer(request: TokenizerRequest) -> dict[str, Any]:
    """Train a SentencePiece tokenizer on a corpus's train split; does nothing if it is up to date."""
    workspace, name = Workspace.create(request.workspace), request.tokenizer_name
    if request.make_missing:
        ensure_corpus(request, request.corpus)
    folder = workspace.tokenizer(name)
    corpus = load(workspace.corpus(request.corpus), f"corpus {request.corpus!r}")
    began = time.monotonic()
    train = partial(vocabulary.train_tokenizer, request.spec(TokenizerSpec), corpus, folder)
    if request.ray:
        with ray_session(request.ray, workspace.root):
            tokenizer, made = run_remotely(train)
    else:
        tokenizer, made = train()
    seconds = time.monotonic() - began
    headline = f"tokenizer {name}: up to date, {tokenizer.size} pieces"
    if made:
        note_seconds(folder, seconds)
        headline = f"tokenizer {name}: {tokenizer.size} pieces in {seconds:.1f} s, exact round trip verified"
    say(headline)
    show_tokenizer(name, tokenizer, headline)
    return {"tokenizer": name, "location": str(folder), "identity": tokenizer.identity, "pieces": tokenizer.size}


def ensure_tokenizer(request: InWorkspace, corpus: str, name: str) -> None:
    """Generate a missing corpus that is a preset, and train a missing tokenizer that is named `<corpus>-<kind>`."""
    ensure_corpus(request, corpus)
    known = {f"{corpus}-{kind}": kind for kind in get_args(TokenizerKind)}
    if name in known and not Workspace.open(request.workspace).tokenizer(name).exists():
        train_tokenizer(TokenizerRequest(**request.workspace_and_ray, corpus=corpus, kind=known[name]))
