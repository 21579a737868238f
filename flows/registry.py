"""Every flow, declared once: its deployment, its command, its job on a cluster and `prefect.yaml` follow from here.

A flow `generate-corpus` is the function `generate_corpus` in `flows/generate_corpus.py`. `python -m flows.registry`
prints `prefect.yaml`.
"""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import yaml

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
from flows.common.presets import CORPUS_PRESETS, PRESETS

if TYPE_CHECKING:
    from prefect import Flow

TAG = "numerate"


@dataclass(frozen=True)
class RegisteredFlow:
    """A flow, and how it is offered."""

    name: str
    description: str
    """What it does, in the UI and in `--help`."""
    form: InWorkspace
    """The request with which the form of its deployment starts."""
    tags: tuple[str, ...]
    command: str = ""
    """Words after `numerate` of the command that takes its presets. Empty if the command has its own module."""
    example: str = ""
    presets: Mapping[str, InWorkspace] = field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        """Dotted name of the function."""
        name = self.name.replace("-", "_")
        return f"flows.{name}.{name}"

    def flow(self) -> "Flow[..., Any]":
        """The Prefect flow, imported on demand: Prefect takes a second to import."""
        return flow_at(self.entrypoint)


def flow_at(entrypoint: str) -> "Flow[..., Any]":
    """The flow with this dotted name."""
    module, _, function = entrypoint.rpartition(".")
    return getattr(import_module(module), function)


def _stage(part: Callable[[EndToEndRequest], InWorkspace]) -> dict[str, InWorkspace]:
    """The request for one stage from each end-to-end preset."""
    return {name: part(preset) for name, preset in PRESETS.items()}


FLOWS = (
    RegisteredFlow(
        "end-to-end",
        "Run every stage that is missing: corpus, tokenizer, encoding, training, evaluation. The defaults are the "
        "notebook's 100 million sums and take six to eight minutes on two cores.",
        EndToEndRequest(),
        ("train", "corpus"),
        "run",
        "numerate run quick --workspace /tmp/try",
        PRESETS,
    ),
    RegisteredFlow(
        "generate-corpus",
        "Generate a corpus of arithmetic problems as sharded Parquet. The defaults are the notebook's 100 million sums "
        "of four numbers.",
        GenerateRequest(),
        ("corpus",),
        "corpus generate",
        "numerate corpus generate addition --rows 1000000",
        CORPUS_PRESETS,
    ),
    RegisteredFlow(
        "train-tokenizer",
        "Train a SentencePiece tokenizer on the train split of a corpus, and check that decoding restores each text.",
        TokenizerRequest(make_missing=True),
        ("tokens",),
        "tokenizer train",
        "numerate tokenizer train --corpus pairs",
        _stage(EndToEndRequest.tokenizer_request),
    ),
    RegisteredFlow(
        "encode-corpus",
        "Encode every problem of a corpus as a fixed-width row of token ids.",
        EncodeRequest(make_missing=True),
        ("tokens",),
        "encode",
        "numerate encode --corpus pairs",
        _stage(EndToEndRequest.encode_request),
    ),
    RegisteredFlow(
        "train-encoder",
        "Train an encoder with DDP over Ray Train. An interrupted run continues from its last checkpoint.",
        TrainRequest(make_missing=True),
        ("train",),
        "train",
        "numerate train --corpus pairs --steps 500",
        _stage(EndToEndRequest.train_request),
    ),
    RegisteredFlow(
        "evaluate-encoder",
        "Evaluate a trained encoder on the test split, and write a report.",
        EvaluateRequest(make_missing=True),
        ("evaluate",),
        "evaluate",
        "numerate evaluate --limit 0",
        _stage(EndToEndRequest.evaluate_request),
    ),
    RegisteredFlow(
        "probe-encoder",
        "Analyse a trained encoder: geometry of its embeddings, probes of its hidden states, attention and edits.",
        ProbeRequest(),
        ("evaluate",),
    ),
    RegisteredFlow(
        "verify-corpus",
        "Compare a corpus with its manifest byte by byte, or with its specification row by row, and repair it.",
        VerifyRequest(make_missing=True),
        ("corpus",),
    ),
    RegisteredFlow(
        "corpus-leakage",
        "Prove that no problem that one corpus holds out is in the train split of another.",
        LeakageRequest(make_missing=True),
        ("corpus",),
    ),
)

COMMANDS = {each.command: each for each in FLOWS if each.command}
"""Flows by the words of the command that takes their presets."""

_HEAD = """\
# Made by `python -m flows.registry > prefect.yaml`.
#
# For teams with a Prefect server of their own:
#   prefect work-pool create numerate --type process
#   prefect deploy --all
# and on each worker machine, in a clone with `make setup` done:
#   prefect worker start --pool numerate --limit 1
# Runs beyond the limit stay Scheduled. The workspace has to have the same absolute path, or URI, on all workers: set
# `workspace` in the form, or in the parameters below.
name: numerate

# A worker runs the code of its own clone. Prefect's default is the path of the clone that deploys.
pull:
- flows.server.clone.work_in_clone: {}

definitions:
  pool: &pool
    name: numerate

deployments:
"""


def team_file() -> str:
    """The text of `prefect.yaml`."""
    return _HEAD + "".join(
        f"- name: {each.name}\n"
        f"  entrypoint: {each.entrypoint}\n"
        f"  description: >-\n{textwrap.fill(each.description, 110, initial_indent='    ', subsequent_indent='    ')}\n"
        f"  tags: [{', '.join((TAG, *each.tags))}]\n"
        f"  parameters: {_flow_style({'request': each.form.model_dump(mode='json', exclude_defaults=True)})}\n"
        "  work_pool: *pool\n"
        for each in FLOWS
    )


def _flow_style(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1_000).strip()


if __name__ == "__main__":
    print(team_file(), end="")
