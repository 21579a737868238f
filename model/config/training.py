"""Parameters of a training, shared by the form, the command-line options and the spec file."""

from typing import Any, Literal

from pydantic import Field, model_validator

from model.config.encoder import EncoderConfig, Position
from storage.form import Form
from storage.reading.lanes import LANES

# Seconds that a stopped training has for its last steps and its checkpoint before it is killed.
STOP_SECONDS = 90.0


Objective = Literal["answer", "anywhere", "all", "rewriting"]
PrecisionName = Literal["auto", "bfloat16", "float32"]


class CurriculumStage(Form):
    """Training steps on a subset of the corpus."""

    where: str = Field("", description="SQL predicate that selects the problems; empty selects all.", max_length=10_000)
    steps: int = Field(100, description="Steps of the stage.", ge=1, le=10**8)


class TrainingSpec(Form):
    """Parameters of a training."""

    encoder: EncoderConfig = Field(EncoderConfig(), description="Encoder architecture.")
    steps: int = Field(2_500, ge=1, le=10**8, description="Optimizer steps.")
    batch_size: int = Field(
        512, ge=LANES, le=1 << 20, multiple_of=LANES, description="Problems per step, over all workers."
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "muon", description="Optimizer for the matrices of the layers; AdamW trains all other parameters."
    )
    matrix_learning_rate: float = Field(
        0.01, gt=0, le=1, description="Learning rate of Muon, for the matrices of the layers."
    )
    learning_rate: float = Field(8e-3, gt=0, le=1, description="Learning rate of AdamW, for all other parameters.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps for the warmup of the learning rates.")
    full_mask_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of problems whose whole answer is masked; the other problems mask random slots.",
    )
    precision: PrecisionName = Field(
        "auto", description="Arithmetic precision of the training; auto uses bfloat16 if the machine supports it."
    )
    workers: int = Field(0, ge=0, le=LANES, description="DDP workers; 0 uses one per GPU, or two without GPUs.")
    validate_every: int = Field(200, ge=1, description="Steps between validations.")
    validation_rows: int = Field(2_048, ge=LANES, le=1 << 20, multiple_of=LANES, description="Problems per validation.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=0, le=1_000, description="Older checkpoints to keep besides the best and the last one.")
    seed: int = Field(0, ge=0, lt=2**63, description="Random seed for weights, data order and masks.")
    where: str = Field(
        "",
        description="SQL predicate over the corpus's columns that selects the problems, such as digits <= 5; empty "
        "selects all.",
        max_length=10_000,
    )
    curriculum: tuple[CurriculumStage, ...] = Field(
        (), description="Stages before the remaining steps, each with its own predicate.", max_length=100
    )

    min_workers: int = Field(
        0,
        description="Minimum number of workers to continue with if the cluster loses some; 0 keeps the number of "
        "workers fixed.",
        ge=0,
        le=LANES,
    )

    objective: Objective = Field(
        "answer",
        description="Tokens to mask: answer masks slots of the answer; anywhere masks an operand instead in some "
        "problems, if exactly one number solves them; all masks any digits and slots; rewriting trains an encoder of "
        "that kind on marks and single operations.",
    )
    operand_share: float = Field(
        0.3, description="Objective anywhere: share of problems that mask an operand and show the answer.", ge=0, le=1
    )
    running_sum: float = Field(
        0.0, description="Weight of the loss on the running sums of products; 0 disables it.", ge=0, le=100
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether torch.compile compiles the layers; auto does so on a GPU if a compiler is installed.",
    )

    oversample: str = Field(
        "rare",
        description="SQL predicate for problems that fill a fixed share of every batch. rare selects the sparse "
        "corners of a grid of sums (only small or only large numbers) and some sums that end in 99 or 00. Empty "
        "selects none.",
        max_length=10_000,
    )
    oversample_share: float = Field(
        0.25,
        description="Share of every batch for the oversampled problems, rounded to a multiple of 64 problems.",
        gt=0,
        lt=1,
    )

    @model_validator(mode="after")
    def _elastic(self) -> "TrainingSpec":
        if self.workers and self.min_workers > self.workers:
            raise ValueError(
                f"min_workers is {self.min_workers}, more than workers ({self.workers}): lower min_workers"
            )
        return self

    @model_validator(mode="after")
    def _rewriting(self) -> "TrainingSpec":
        if (self.objective == "rewriting") != (self.encoder.kind == "rewriting"):
            raise ValueError(
                f"objective is {self.objective} and encoder.kind is {self.encoder.kind}, but rewriting needs both: "
                "set both to rewriting, or none"
            )
        if self.objective == "rewriting" and self.encoder.unit != "none":
            raise ValueError(
                f"encoder.unit is {self.encoder.unit}, but encoders that rewrite have no symbolic unit: set it to none"
            )
        if self.objective == "rewriting" and self.running_sum:
            raise ValueError(
                f"running_sum is {self.running_sum}, but the objective rewriting has no running sums: set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _stages(self) -> "TrainingSpec":
        taken = sum(stage.steps for stage in self.curriculum)
        if taken >= self.steps:
            raise ValueError(
                f"the curriculum has {taken:,} steps, but steps is {self.steps:,}: set steps above {taken:,}"
            )
        return self

    @property
    def ignored(self) -> list[str]:
        """Messages for changed settings that have no effect, with the reason."""
        encoder, plain = self.encoder, TrainingSpec.model_fields
        settings = [
            ("operand_share", self.operand_share, self.objective != "anywhere", f"objective is {self.objective}"),
            ("matrix_learning_rate", self.matrix_learning_rate, self.optimizer == "adamw", "optimizer is adamw"),
        ]
        found = [
            f"{name} {value} is ignored: {why}"
            for name, value, idle, why in settings
            if idle and value != plain[name].default
        ]
        needs: dict[str, tuple[Position, ...]] = {
            **dict.fromkeys(("reach", "far"), ("relative",)),
            **dict.fromkeys(("places", "depth", "random_offset"), ("place-value",)),
            "operands": ("place-value", "relative"),
            "longest": ("learned",),
        }
        for name, positions in needs.items():
            value = getattr(encoder, name)
            if name == "operands" and encoder.unit != "none":
                continue
            if not set(positions) & set(encoder.positions) and value != EncoderConfig.model_fields[name].default:
                found.append(f"encoder.{name} {value} is ignored: positions do not include {' or '.join(positions)}")
        return found

    def identity(self) -> dict[str, Any]:
        """The settings that determine the weights and the choice of the best checkpoint, as JSON values.

        The number of workers and of kept checkpoints is excluded.
        """
        return self.model_dump(mode="json", exclude={"workers", "min_workers", "keep"})


class Seeds(Form):
    """Number of seeds of a training."""

    seeds: int = Field(
        1,
        description="Number of seeds to train, from seed upwards. Several seeds train as runs <name>-seed<number>, in "
        "parallel if resources allow.",
        ge=1,
        le=1_000,
    )


class EncodedCorpus(Form):
    """An encoded corpus of a workspace, by name."""

    workspace: str = Field("./workspace", description="Folder that holds corpora, tokenizers and runs.")
    corpus: str = Field(..., description="Name of the corpus, which must already be encoded.")
    tokenizer: str = Field("", description="Name of the tokenizer; empty means <corpus>-digit.")

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer or f"{self.corpus}-digit"


class TrainingFile(EncodedCorpus, Seeds):
    """Parameters in the file for `python -m model.training`."""

    name: str = Field("", description="Name of the run; empty means the name of the corpus.")
    training: TrainingSpec = Field(TrainingSpec(), description="Training parameters.")


def seed_runs(name: str, spec: TrainingSpec, seeds: int) -> list[tuple[str, TrainingSpec]]:
    """Run name and training of each seed; a single seed keeps `name`."""
    if seeds == 1:
        return [(name, spec)]
    numbers = range(spec.seed, spec.seed + seeds)
    return [(f"{name}-seed{number}", spec.model_copy(update={"seed": number})) for number in numbers]
