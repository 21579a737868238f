"""Parameters of probing, shared by the form, the command-line options and a result's key."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# Increased with every change of the measurements; results of other versions are recomputed.
PROBING_VERSION = 6


class ProbingSpec(BaseModel):
    """Parameters of probing an encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Literal["best", "last"] = Field(
        "best",
        description="Checkpoint to probe: the best one on validation, or the last one.",
        json_schema_extra={"position": 0},
    )
    problems: int = Field(
        2_000,
        ge=200,
        le=100_000,
        description="Problems to train the probes on; a third as many, with held-out numbers, test them.",
        json_schema_extra={"position": 1},
    )
    layers: tuple[int, ...] = Field(
        (), max_length=48, description="Layers whose hidden states are probed; empty selects all.",
        json_schema_extra={"position": 2},
    )  # fmt: skip
    loops: tuple[int, ...] = Field(
        (), max_length=256, description="Loops whose hidden states are probed; empty selects all.",
        json_schema_extra={"position": 3},
    )  # fmt: skip
    edited: int = Field(
        400,
        ge=90,
        le=100_000,
        description="Problems for the interventions, which show what the encoder uses.",
        json_schema_extra={"position": 4},
    )
    series: int = Field(
        12,
        ge=0,
        le=1_000,
        description="Maximum number of kept checkpoints to measure over training; 0 for none.",
        json_schema_extra={"position": 5},
    )
