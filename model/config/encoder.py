"""Parameters of an encoder's architecture, and the problem sizes that it supports."""

from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from storage.errors import UserError
from storage.form import Form

Unit = Literal["none", "residue", "primes", "nalu"]
Position = Literal["sinusoidal", "learned", "place-value", "relative"]


class Extent(NamedTuple):
    """Size of a single problem, or of the largest problems of a corpus."""

    problem: int
    """Tokens of the problem."""
    answer: int
    """Slots of the answer, including the sign."""
    digits: int
    """Digits of the longest operand."""
    operands: int
    """Number of operands."""
    depth: int
    """Depth of nested brackets."""


class EncoderConfig(Form):
    """Architecture of the encoder."""

    kind: Literal["answers", "rewriting"] = Field(
        "answers",
        description="What the encoder does: answers fills the slots of a problem's answer at once; rewriting marks the "
        "operations of an expression that can be carried out, and carries out one at a time.",
    )
    width: int = Field(128, description="Size of a hidden state.", ge=8, le=4096)
    heads: int = Field(4, description="Attention heads.", ge=1, le=64)
    layers: int = Field(2, description="Layers in the block.", ge=1, le=48)
    loops: int = Field(
        1, description="Loops: runs of the block of layers; each loop adds the block's input again.", ge=1, le=64
    )
    min_loops: int = Field(
        0,
        description="Minimum number of loops in training, drawn at random up to loops for each step; 0 always uses "
        "loops.",
        ge=0,
        le=64,
    )
    feedforward: int = Field(512, description="Size of the feed-forward layer.", ge=8, le=16384)
    norm: Literal["pre", "post"] = Field(
        "pre",
        description="Layer norm before each sublayer (pre), or after it as in 'Attention Is All You Need' (post).",
    )
    positions: tuple[Position, ...] = Field(
        ("place-value",), description="Position encodings; several can be combined.", min_length=1
    )
    places: int = Field(
        32,
        description="Largest place value of place-value positions, in tokens from the right of a number.",
        ge=2,
        le=1024,
    )
    random_offset: bool = Field(False, description="Shift place values at random in training, as far as places allows.")
    operands: int = Field(16, description="Maximum number of operands.", ge=2, le=256)
    depth: int = Field(8, description="Maximum depth of nested brackets.", ge=0, le=64)
    longest: int = Field(
        64, description="Maximum number of tokens of a problem or an answer, for learned positions.", ge=4, le=4096
    )
    reach: int = Field(
        4, description="Largest difference of place values that relative positions distinguish.", ge=1, le=64
    )
    far: Literal["shared", "hidden"] = Field(
        "shared",
        description="Digits further apart than reach: shared gives them one attention score per direction, hidden "
        "masks them.",
    )
    warm_loops: int = Field(
        0,
        description="Maximum number of loops without gradient before the others. Training draws their number at random "
        "in half of the steps; 0 disables them.",
        ge=0,
        le=256,
    )
    carry_loops: int = Field(
        0,
        description="Loops before carries start to move, by one digit position per loop. Training scores a slot of a "
        "sum only after its carry can arrive. An answer uses one loop per slot plus these, but at least loops. 0 "
        "scores every slot and always uses loops.",
        ge=0,
        le=64,
    )
    mark_loops: int = Field(
        2, description="Kind rewriting: runs of the block for the marks of an expression.", ge=1, le=16
    )
    mark_layers: Literal["shared", "own"] = Field(
        "shared",
        description="Kind rewriting: shared uses the layers of operations for marks too, own gives marks their own.",
    )
    digits_per_step: int = Field(
        1,
        description="Kind rewriting: digits of the second factor that a pass of a product consumes, as in the corpus.",
        ge=1,
        le=4,
    )
    unit: Unit = Field(
        "none",
        description="Symbolic unit before the block's final layer. residue computes + - * exactly, modulo powers of "
        "ten; primes computes modulo small primes; nalu is the published baseline.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "EncoderConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}: change one of them")
        if self.min_loops > self.loops:
            raise ValueError(f"min_loops {self.min_loops} is greater than loops {self.loops}: lower min_loops")
        if self.carry_loops > (least := self.min_loops or self.loops):
            raise ValueError(
                f"carry_loops {self.carry_loops} is greater than the minimum number of loops ({least}), "
                "which would score no slot: lower carry_loops"
            )
        if len(set(self.positions)) < len(self.positions):
            raise ValueError(f"positions {', '.join(self.positions)} contain a duplicate: name each once")
        return self

    def loops_of(self, slots: int) -> int:
        """Default number of runs of the block for an answer of `slots` slots."""
        return max(self.loops, slots + self.carry_loops) if self.carry_loops else self.loops

    @property
    def any_length(self) -> bool:
        """Whether the computation at a digit position is independent of the length of the numbers."""
        return self.kind == "rewriting" or (self.positions == ("relative",) and self.far == "hidden")

    def check_pieces(self, group: int) -> None:
        """Raise `UserError` if positions need digits or groups of digits, but the pieces are learned (`group` is 0)."""
        if not group and (need := [name for name in self.positions if name in ("place-value", "relative")]):
            raise UserError(
                f"encoder.positions is {', '.join(self.positions)}, and {' and '.join(need)} needs digits or groups of "
                "digits from the right, not learned pieces: use positions sinusoidal or learned, or a tokenizer of "
                "kind digit, pairs or triples"
            )

    def refusal(self, extent: Extent, group: int = 1) -> str:
        """The first bound of the encoder that problems of this extent exceed, as a message; empty if there is none.

        A place holds `group` digits; 0 means learned pieces and is treated like 1.
        """
        bounds: list[tuple[str, int, int]] = []
        if self.kind == "rewriting":
            return ""
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
