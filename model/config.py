"""What an encoder is and how it is trained: the parameters that the form, the options and the spec file share."""

from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.errors import UserError
from storage.reading.lanes import LANES

# What a training that is asked to stop may take for its last steps and its checkpoint, before it is killed.
STOP_SECONDS = 90.0


class Extent(NamedTuple):
    """How large problems are: the largest that an encoder meets, or a single one."""

    problem: int
    """Tokens of the problem."""
    answer: int
    """Slots of the answer."""
    digits: int
    """Digits of the longest operand."""
    operands: int
    """Number of operands."""
    depth: int
    """Brackets nested inside each other."""


Objective = Literal["answer", "anywhere", "all"]
Unit = Literal["none", "residue", "primes", "nalu"]
Position = Literal["sinusoidal", "learned", "place-value", "relative"]


def _field(position: int, default: Any, description: str, **bounds: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"position": position}, **bounds)


class EncoderConfig(BaseModel):
    """Shape of the encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = _field(0, 128, "Size of a hidden state.", ge=8, le=4096)
    heads: int = _field(1, 4, "Attention heads.", ge=1, le=64)
    layers: int = _field(2, 2, "Layers in the block.", ge=1, le=48)
    loops: int = _field(3, 1, "Times the block is run, its input added anew.", ge=1, le=64)
    min_loops: int = _field(
        4, 0, "Fewest runs of the block in training, drawn at random for each step; 0 always takes loops.", ge=0, le=64
    )
    feedforward: int = _field(5, 512, "Size of the feed-forward layer.", ge=8, le=16384)
    norm: Literal["pre", "post"] = _field(6, "pre", "Norm before each sublayer, or behind it as in the paper.")
    positions: tuple[Position, ...] = _field(
        7, ("place-value",), "How the encoder knows where a token stands; several add up.", min_length=1
    )
    places: int = _field(8, 32, "Largest place value.", ge=2, le=1024)
    random_offset: bool = _field(9, False, "Places shifted at random in training, as far as there is room.")
    operands: int = _field(10, 16, "Most operands.", ge=2, le=256)
    depth: int = _field(11, 8, "Deepest brackets.", ge=0, le=64)
    longest: int = _field(12, 64, "Most tokens of a problem or of an answer, for learned positions.", ge=4, le=4096)
    reach: int = _field(13, 4, "Largest difference of places that relative positions tell apart.", ge=1, le=64)
    far: Literal["shared", "hidden"] = _field(
        14, "shared", "Digits further apart than reach: one score for all of them, or unseen."
    )
    warm_loops: int = _field(
        15,
        0,
        "Most runs of the block before those, without gradient, drawn at random for half of the steps in training; "
        "0 leaves them out.",
        ge=0,
        le=256,
    )
    carry_loops: int = _field(
        16,
        0,
        "Runs of the block before carries move, one place a run: a sum's slot is asked in training once its carry can "
        "be there, and answers take as many runs as they have slots beside these; 0 always asks and takes loops.",
        ge=0,
        le=64,
    )
    unit: Unit = _field(
        17,
        "none",
        "Symbolic unit before the block's final layer: residue computes + - * exactly on circles of powers of ten, "
        "primes on those of small primes, nalu is the published baseline.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "EncoderConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}: change one of them")
        if self.min_loops > self.loops:
            raise ValueError(f"min_loops {self.min_loops} is above loops {self.loops}: lower it")
        if self.carry_loops > (least := self.min_loops or self.loops):
            raise ValueError(
                f"carry_loops {self.carry_loops} is above the fewest loops ({least}), in which nothing would be asked: "
                "lower it"
            )
        if len(set(self.positions)) < len(self.positions):
            raise ValueError(f"positions {', '.join(self.positions)} name one twice: leave it out")
        return self

    def loops_of(self, slots: int) -> int:
        """Runs of the block that an answer of `slots` takes, if it isn't told otherwise."""
        return max(self.loops, slots + self.carry_loops) if self.carry_loops else self.loops

    @property
    def any_length(self) -> bool:
        """Whether what it computes at a place doesn't depend on how long the numbers are."""
        return self.positions == ("relative",) and self.far == "hidden"

    def check_pieces(self, group: int) -> None:
        """Raise `UserError` where positions need digits or groups of them, and the pieces are learnt (`group` is 0)."""
        if not group and (need := [name for name in self.positions if name in ("place-value", "relative")]):
            raise UserError(
                f"encoder.positions is {', '.join(self.positions)}, and {' and '.join(need)} needs digits or groups of "
                "them from the right, not learnt pieces: take positions sinusoidal or learned, or a tokenizer of kind "
                "digit, pairs or triples"
            )

    def refusal(self, extent: Extent, group: int = 1) -> str:
        """Which of the encoder's bounds problems of this extent pass, a place being of `group` digits; empty if none.

        Without groups (0) no place is counted.
        """
        bounds: list[tuple[str, int, int]] = []
        if "learned" in self.positions:
            bounds.append(("longest", self.longest, max(extent.problem, extent.answer)))
        if "place-value" in self.positions:
            places = max(-(-extent.digits // max(1, group)), extent.answer - 1)
            bounds += [("places", self.places, places), ("depth", self.depth, extent.depth)]
        if {"place-value", "relative"} & set(self.positions):
            bounds.append(("operands", self.operands, extent.operands))
        for name, bound, needed in bounds:
            if needed > bound:
                return f"encoder.{name} is {bound}, {needed} is needed"
        return ""


class CurriculumStage(BaseModel):
    """Some steps of a training on a part of the corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    where: str = _field(0, "", "SQL predicate that chooses the problems; empty takes all.", max_length=10_000)
    steps: int = _field(1, 100, "Steps of the stage.", ge=1, le=10**8)


class TrainingSpec(BaseModel):
    """How an encoder is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderConfig = Field(
        EncoderConfig(), description="Shape of the encoder.", json_schema_extra={"position": 0}
    )
    steps: int = Field(2_500, ge=1, le=10**8, description="Optimizer steps.", json_schema_extra={"position": 1})
    batch_size: int = Field(
        512,
        ge=LANES,
        le=1 << 20,
        multiple_of=LANES,
        description="Problems in a step, over all workers.",
        json_schema_extra={"position": 2},
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "muon",
        description="For the matrices of the layers: Muon, or AdamW as for everything else.",
        json_schema_extra={"position": 3},
    )
    matrix_learning_rate: float = Field(
        0.01, gt=0, le=1, description="Muon's rate, for the matrices of the layers.", json_schema_extra={"position": 4}
    )
    learning_rate: float = Field(
        8e-3, gt=0, le=1, description="AdamW's rate, for everything else.", json_schema_extra={"position": 5}
    )
    warmup: float = Field(
        0.05, ge=0, lt=1, description="Share of the steps in which the rates rise.", json_schema_extra={"position": 6}
    )
    full_mask_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of problems whose whole answer is masked; others at random.",
        json_schema_extra={"position": 7},
    )
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Arithmetic; auto takes bfloat16 where the machine has it.",
        json_schema_extra={"position": 8},
    )
    workers: int = Field(
        0,
        ge=0,
        le=LANES,
        description="DDP workers; 0 takes one a GPU, or two without a GPU.",
        json_schema_extra={"position": 9},
    )
    validate_every: int = Field(200, ge=1, description="Steps between validations.", json_schema_extra={"position": 10})
    validation_rows: int = Field(
        2_048,
        ge=LANES,
        le=1 << 20,
        multiple_of=LANES,
        description="Problems in a validation.",
        json_schema_extra={"position": 11},
    )
    checkpoint_every: int = Field(
        500, ge=1, description="Steps between checkpoints.", json_schema_extra={"position": 12}
    )
    keep: int = Field(
        2,
        ge=0,
        le=1_000,
        description="Older checkpoints kept besides best and last.",
        json_schema_extra={"position": 13},
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of weights, order and masks.", json_schema_extra={"position": 14}
    )
    where: str = _field(
        15,
        "",
        "SQL predicate over the corpus's columns that chooses the problems, such as digits <= 5; empty takes all.",
        max_length=10_000,
    )
    curriculum: tuple[CurriculumStage, ...] = _field(
        16, (), "Stages before the rest of the steps, each with its own predicate.", max_length=100
    )

    min_workers: int = _field(
        17,
        0,
        "Fewest workers to go on with where the cluster loses some, workers being the most; 0 keeps the number fixed.",
        ge=0,
        le=LANES,
    )

    objective: Objective = _field(
        18,
        "answer",
        "What is hidden: slots of the answer; anywhere, an operand too where one number alone solves the problem; "
        "or all, any digits and slots.",
    )
    operand_share: float = _field(
        19, 0.3, "Objective anywhere: share of problems whose answer is shown and an operand hidden.", ge=0, le=1
    )
    running_sum: float = _field(
        20, 0.0, "Weight of the loss on the running sums of products; 0 leaves it out.", ge=0, le=100
    )
    compile: Literal["auto", "on", "off"] = _field(
        21,
        "auto",
        "Whether torch.compile makes the layers faster; auto does so on a GPU where a compiler is installed.",
    )

    oversample: str = _field(
        22,
        "rare",
        "SQL predicate of problems that fill a fixed share of every batch; rare takes the sparse corners of a grid of "
        "sums (only small or only large numbers) and sums that end in 99 or 00; empty takes none.",
        max_length=10_000,
    )
    oversample_share: float = _field(
        23, 0.25, "Share of every batch that these problems fill, in steps of 64 problems.", gt=0, lt=1
    )

    @model_validator(mode="after")
    def _elastic(self) -> "TrainingSpec":
        if self.workers and self.min_workers > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, above workers ({self.workers}): lower it")
        return self

    @model_validator(mode="after")
    def _stages(self) -> "TrainingSpec":
        taken = sum(stage.steps for stage in self.curriculum)
        if taken >= self.steps:
            raise ValueError(f"the curriculum has {taken:,} steps, the training {self.steps:,}: raise steps")
        return self

    @property
    def ignored(self) -> list[str]:
        """Settings that were changed and have no effect, each with the reason."""
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
                found.append(f"encoder.{name} {value} is ignored: positions don't hold {' or '.join(positions)}")
        return found

    def identity(self) -> dict[str, Any]:
        """What decides the weights and which of them is best, as JSON values.

        How many workers there are and how many checkpoints are kept is no part of it.
        """
        return self.model_dump(mode="json", exclude={"workers", "min_workers", "keep"})


class Seeds(BaseModel):
    """How often a training is done."""

    seeds: int = _field(
        83,
        1,
        "Seeds to train, from seed upwards, each as a run <name>-seed<number>; side by side where there is room.",
        ge=1,
        le=1_000,
    )


class TrainingFile(Seeds):
    """What `python -m model.training` reads from a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: str = _field(0, "./workspace", "Folder that holds corpora, tokenizers and runs.")
    corpus: str = _field(1, ..., "Name of the corpus, which is encoded already.")
    tokenizer: str = _field(2, "", "Name of the tokenizer; empty takes <corpus>-digit.")
    name: str = _field(3, "", "Name of the run; empty takes the corpus's.")
    training: TrainingSpec = _field(4, TrainingSpec(), "The training.")


def seed_runs(name: str, spec: TrainingSpec, seeds: int) -> list[tuple[str, TrainingSpec]]:
    """Name and training of each seed's run; a single seed keeps the name."""
    if seeds == 1:
        return [(name, spec)]
    numbers = range(spec.seed, spec.seed + seeds)
    return [(f"{name}-seed{number}", spec.model_copy(update={"seed": number})) for number in numbers]


class Decoding(BaseModel):
    """How masked answer slots are filled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passes: int = _field(0, 1, "Passes of the encoder, each of which fixes some of the slots.", ge=1, le=1_024)
    order: Literal["confidence", "units-first"] = _field(
        1, "confidence", "Which slots a pass fixes: the surest ones, or those from the units upwards."
    )
    loops: int = _field(
        2, 0, "Runs of the block; 0 takes as many as in training, or as carries need (carry_loops).", ge=0, le=4_096
    )
    sharpness: float = _field(3, 1.0, "Factor on the attention scores.", gt=0, le=100)
    unit: Literal["on", "off"] = _field(4, "on", "The encoder's symbolic unit; off leaves it out, to see what it does.")


ONE_PASS = Decoding()


class EvaluationSpec(BaseModel):
    """What is evaluated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["test", "validation", "train", "all"] = Field(
        "test",
        description="Split that is evaluated; all takes the problems that were trained on, too.",
        json_schema_extra={"position": 0},
    )
    limit: int = Field(
        100_000,
        ge=0,
        description="Problems, from the first of the split on; 0 takes all.",
        json_schema_extra={"position": 1},
    )
    checkpoint: Literal["best", "last"] = Field(
        "best", description="Checkpoint that answers.", json_schema_extra={"position": 2}
    )
    decoding: Decoding = Field(
        ONE_PASS, description="How the answers' slots are filled.", json_schema_extra={"position": 3}
    )
    missing: Literal["answer", "operand"] = _field(
        4, "answer", "What is asked: the answer, or an operand with the answer shown, as in 12+?=30."
    )

    @model_validator(mode="after")
    def _one_pass(self) -> "EvaluationSpec":
        if self.missing == "operand" and self.decoding != ONE_PASS:
            raise ValueError("missing is operand, which is filled in one pass: leave the options of decoding out")
        return self
