"""The flow `encode-corpus`."""

import time
from typing import Any

from flows.common.engines import ray_session
from flows.common.flow import flow
from flows.common.parameters import EncodeRequest, InWorkspace
from flows.common.progress import human, metered, say
from flows.common.timing import note_seconds
from flows.reports.artifacts import show_tokens
from flows.train_tokenizer import ensure_tokenizer
from model.tokenizer import load_tokenizer
from pipelines.generation.build import build_tokens
from storage.datasets.manifest import committed, load
from storage.workspace import Workspace


@flow(name="encode-corpus", flow_run_name="encode {request.corpus} with {request.tokenizer_name}")
def encode_corpus(request: EncodeRequest) -> dict[str, Any]:
    """Encode a corpus as fixed-width rows of token ids; does nothing if the tokens are up to date."""
    workspace, name = Workspace.create(request.workspace), request.tokenizer_name
    if request.make_missing:
        ensure_tokenizer(request, request.corpus, name)
    folder = workspace.tokens(request.corpus, name)
    corpus = load(workspace.corpus(request.corpus), f"corpus {request.corpus!r}")
    tokenizer, _ = load_tokenizer(workspace.tokenizer(name))
    began = time.monotonic()
    session = ray_session(request.ray, workspace.root)
    with session as cpus, metered("encode-corpus", f"encode {request.corpus}", corpus.manifest.rows) as meter:
        tokens, made = build_tokens(
            corpus, tokenizer, folder, in_flight=cpus, progress=meter.add, finished=meter.add_finished
        )
    seconds = time.monotonic() - began
    rows = tokens.manifest.rows
    headline = f"encode {request.corpus}: up to date, {rows:,} rows"
    if made:
        note_seconds(folder, seconds, add=True)
        headline = f"encode {request.corpus}: {rows:,} rows in {seconds:.1f} s, {human(rows / seconds)} rows/s"
    say(headline)
    show_tokens(tokens, headline)
    return {"corpus": request.corpus, "location": str(folder), "identity": tokens.manifest.identity, "rows": rows}


def ensure_tokens(request: InWorkspace, corpus: str, tokenizer: str) -> None:
    """Encode a corpus if it has no tokens yet; first makes a missing corpus or tokenizer as `ensure_tokenizer` does."""
    if not committed(Workspace.open(request.workspace).tokens(corpus, tokenizer)):
        encode_corpus(EncodeRequest(**request.workspace_and_ray, corpus=corpus, tokenizer=tokenizer, make_missing=True))
