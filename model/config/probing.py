"""Parameters of probing, shared by the form, the command-line options and a result's key."""

from typing import Literal

from pydantic import Field

from storage.form import Form

# Increased with every change of the measurements; results of other versions are recomputed.
PROBING_VERSION = 6


class ProbingSpec(Form):
    """Parameters of probing an encoder."""

    checkpoint: Literal["best", "last"] = Field(
        "best", description="Checkpoint to probe: the best one on validation, or the last one."
    )
    problems: int = Field(
        2_000,
        ge=200,
        le=100_000,
        description="Problems to train the probes on; a third as many, with held-out numbers, test them.",
    )
    layers: tuple[int, ...] = Field(
        (), max_length=48, description="Layers whose hidden states are probed; empty selects all."
    )
    loops: tuple[int, ...] = Field(
        (), max_length=256, description="Loops whose hidden states are probed; empty selects all, or six of many."
    )
    edited: int = Field(
        400, ge=90, le=100_000, description="Problems for the interventions, which show what the encoder uses."
    )
    series: int = Field(
        12, ge=0, le=1_000, description="Maximum number of kept checkpoints to measure over training; 0 for none."
    )
