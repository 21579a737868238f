"""A deployment for every flow. The Prefect UI shows them with a form, whose defaults run unchanged."""

from importlib import import_module
from typing import Any, NamedTuple

from prefect import Flow

from flows.common.parameters import (
    EncodeRequest,
    EndToEndRequest,
    EvaluateRequest,
    GenerateRequest,
    InWorkspace,
    LeakageRequest,
    ProbeRequest,
    TokenizerRequest,
    TrainRequest,
    VerifyRequest,
)
from storage.workspace import Workspace

TAG = "numerate"


class Deployment(NamedTuple):
    """A flow, as `module:function` of this package, and how the UI shows it."""

    name: str
    flow: str
    request: InWorkspace
    tags: tuple[str, ...]
    description: str


DEPLOYMENTS = (
    Deployment(
        "end-to-end",
        "end_to_end:end_to_end",
        EndToEndRequest(),
        ("train", "corpus"),
        "Everything, each stage only where it is missing: corpus, tokenizer, encoding, training, evaluation. The "
        "defaults are the notebook's 100 million sums and take some six minutes on two cores.",
    ),
    Deployment(
        "generate-corpus",
        "generate_corpus:generate_corpus",
        GenerateRequest(),
        ("corpus",),
        "Generate a corpus of arithmetic problems as sharded Parquet, split by problem. The defaults are the "
        "notebook's 100 million sums of four numbers.",
    ),
    Deployment(
        "train-tokenizer",
        "train_tokenizer:train_tokenizer_flow",
        TokenizerRequest(make_missing=True),
        ("tokens",),
        "Train a SentencePiece tokenizer on a corpus's train split, and prove that it loses nothing.",
    ),
    Deployment(
        "encode-corpus",
        "encode_corpus:encode_corpus",
        EncodeRequest(make_missing=True),
        ("tokens",),
        "Turn every problem of a corpus into a fixed-width row of token ids.",
    ),
    Deployment(
        "train-encoder",
        "train_encoder:train_encoder",
        TrainRequest(make_missing=True),
        ("train",),
        "Train an encoder by distributed data parallel over Ray. A run that was cut off goes on from its checkpoint.",
    ),
    Deployment(
        "evaluate-encoder",
        "evaluate_encoder:evaluate_encoder",
        EvaluateRequest(make_missing=True),
        ("evaluate",),
        "Ask a trained encoder problems that it never saw, and report how many it answers exactly.",
    ),
    Deployment(
        "probe-encoder",
        "probe_encoder:probe_encoder",
        ProbeRequest(),
        ("evaluate",),
        "Look into a trained encoder: the geometry of its embeddings, what probes tell from its states, what it reads "
        "and what it uses.",
    ),
    Deployment(
        "verify-corpus",
        "verify_corpus:verify_corpus",
        VerifyRequest(make_missing=True),
        ("corpus",),
        "Compare a corpus with its manifest byte by byte, or with its specification row by row, and mend it.",
    ),
    Deployment(
        "corpus-leakage",
        "corpus_leakage:corpus_leakage",
        LeakageRequest(make_missing=True),
        ("corpus",),
        "Prove that nothing that one corpus holds out is trained on by another.",
    ),
)


def flow_of(deployment: Deployment) -> Flow[..., Any]:
    """The flow of a deployment."""
    module, function = deployment.flow.split(":")
    return getattr(import_module(f"flows.{module}"), function)


def parameters_of(deployment: Deployment, workspace: Workspace) -> dict[str, Any]:
    """Default parameters of a deployment in a workspace, for a quick run and for the form."""
    request = deployment.request.model_copy(update={"workspace": str(workspace.root)})
    return {"request": request.model_dump(mode="json")}
