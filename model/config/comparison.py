"""Parameters of a comparison: each encoder is trained in variants that differ only in unit, seed and steps."""

from typing import Any, Literal

from pydantic import Field

from model.config.encoder import Unit
from model.config.presets import ENCODERS
from model.config.training import EncodedCorpus, PrecisionName, TrainingSpec

# Name of an encoder, and of its symbolic unit.
Variant = tuple[str, str]

_VANILLA = TrainingSpec(encoder=ENCODERS["vanilla"], optimizer="adamw", learning_rate=1e-3, oversample="")
# A random offset of place values, because evaluation includes longer numbers than training.
_OURS = TrainingSpec(
    encoder=ENCODERS["mixing"].model_copy(update={"random_offset": True}),
    learning_rate=5e-3,
    matrix_learning_rate=0.02,
    oversample="",
)


class ComparingSpec(EncodedCorpus):
    """Parameters of a comparison."""

    name: str = Field("units", description="Name of the comparison, and prefix of the names of its runs.")
    corpus: str = Field("mixed", description="Corpus for training, which must already be encoded.")
    beyond: tuple[str, ...] = Field(
        ("mixed-longer", "mixed-deeper"), description="More corpora for evaluation, which must already be encoded."
    )
    trainings: dict[str, TrainingSpec] = Field(
        {"vanilla": _VANILLA, "ours": _OURS},
        min_length=1,
        description="Trainings by encoder; the comparison sets the unit and steps.",
    )
    units: tuple[Unit, ...] = Field(
        ("none", "residue", "primes", "nalu"),
        min_length=1,
        description="Symbolic units; each encoder is trained with each unit.",
    )
    seeds: int = Field(5, ge=1, le=1_000, description="Number of seeds for each encoder and unit.")
    seconds: float = Field(90.0, gt=0, le=1e6, description="Training time of each run, in seconds.")
    timed_seconds: float = Field(
        15.0, gt=0, description="Seconds of the trial trainings that measure the time per step."
    )
    at_once: int = Field(0, ge=0, le=64, description="Parallel trainings; 0 uses as many as resources allow.")
    validations: int = Field(30, ge=1, le=100, description="Validations and checkpoints per training.")
    validation_rows: int = Field(1_024, ge=64, multiple_of=64, description="Problems per validation.")
    batch_size: int = Field(512, ge=64, multiple_of=64, description="Problems per step.")
    problems: int = Field(10_000, ge=0, description="Problems to evaluate from each test split; 0 evaluates all.")
    curve_problems: int = Field(2_000, ge=1, description="Problems to evaluate with each checkpoint.")
    goal: float = Field(0.99, gt=0, le=1, description="Exact match up to which training problems are counted.")
    precision: PrecisionName = Field("auto", description="Arithmetic precision, as in a training.")
    compile: Literal["auto", "on", "off"] = Field(
        "off", description="Whether torch.compile compiles the layers, which takes a large part of a short training."
    )

    @property
    def corpora(self) -> tuple[str, ...]:
        """All corpora of the evaluation."""
        return (self.corpus, *self.beyond)

    def variants(self) -> dict[Variant, TrainingSpec]:
        """The training of each pair of encoder and unit, except for the number of steps."""
        common = self.model_dump(include={"validation_rows", "batch_size", "precision", "compile"})
        found: dict[Variant, TrainingSpec] = {}
        for encoder, training in self.trainings.items():
            for unit in self.units:
                # There may be almost twice as many checkpoints, because steps may not be a multiple of validations.
                values = training.model_dump() | common | {"keep": 2 * self.validations, "curriculum": ()}
                values["encoder"]["unit"] = unit
                found[encoder, unit] = TrainingSpec.model_validate(values)
        return found

    def run_name(self, variant: Variant) -> str:
        """Name of a variant's runs, without the seed."""
        return "-".join((self.name, *variant))

    def planned(self, variant: TrainingSpec, steps: int) -> TrainingSpec:
        """A variant's training with `steps` steps."""
        every = max(1, steps // self.validations)
        return variant.model_copy(update={"steps": steps, "validate_every": every, "checkpoint_every": every})

    def decides(self) -> dict[str, Any]:
        """The values that must be equal to resume a comparison; seeds can be added."""
        return self.model_dump(mode="json", exclude={"workspace", "seeds", "at_once", "timed_seconds"})
