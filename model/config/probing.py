"""Parameters of probing, shared by the form, the command-line options and a result's key."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# Increased with every change of the measurements; results of other versions are recomputed.
PROBING_VERSION = 6


class ProbingSpec(BaseModel):
    """Parameters of probing an encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Literal["best", "last"] = Field(
        "best", description="Checkpoint that is looked into.", json_schema_extra={"position": 0}
    )
    problems: int = Field(
        2_000,
        ge=200,
        le=100_000,
        description="Problems that probes learn from; a third as many more, of numbers held out, ask them.",
        json_schema_extra={"position": 1},
    )
    layers: tuple[int, ...] = Field(
        (), max_length=48, description="Layers whose states are looked at; empty takes all.",
        json_schema_extra={"position": 2},
    )  # fmt: skip
    loops: tuple[int, ...] = Field(
        (), max_length=256, description="Runs of the block whose states are looked at; empty takes all.",
        json_schema_extra={"position": 3},
    )  # fmt: skip
    edited: int = Field(
        400,
        ge=90,
        le=100_000,
        description="Problems that are edited, to see what the encoder uses.",
        json_schema_extra={"position": 4},
    )
    series: int = Field(
        12,
        ge=0,
        le=1_000,
        description="Of the checkpoints that the run kept, so many at most are measured along training; 0 for none.",
        json_schema_extra={"position": 5},
    )
