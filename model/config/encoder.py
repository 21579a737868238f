"""Parameters of an encoder's architecture, and the problem sizes that it supports."""

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator

from model.config.fields import field
from storage.errors import UserError

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


class EncoderConfig(BaseModel):
    """Architecture of the encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = field(0, 128, "Size of a hidden state.", ge=8, le=4096)
    heads: int = field(1, 4, "Attention heads.", ge=1, le=64)
    layers: int = field(2, 2, "Layers in the block.", ge=1, le=48)
    loops: int = field(3, 1, "Loops: runs of the block of layers; each loop adds the block's input again.", ge=1, le=64)
    min_loops: int = field(
        4,
        0,
        "Minimum number of loops in training, drawn at random up to loops for each step; 0 always uses loops.",
        ge=0,
        le=64,
    )
    feedforward: int = field(5, 512, "Size of the feed-forward layer.", ge=8, le=16384)
    norm: Literal["pre", "post"] = field(
        6, "pre", "Layer norm before each sublayer (pre), or after it as in 'Attention Is All You Need' (post)."
    )
    positions: tuple[Position, ...] = field(
        7, ("place-value",), "Position encodings; several can be combined.", min_length=1
    )
    places: int = field(
        8, 32, "Largest place value of place-value positions, in tokens from the right of a number.", ge=2, le=1024
    )
    random_offset: bool = field(9, False, "Shift place values at random in training, as far as places allows.")
    operands: int = field(10, 16, "Maximum number of operands.", ge=2, le=256)
    depth: int = field(11, 8, "Maximum depth of nested brackets.", ge=0, le=64)
    longest: int = field(
        12, 64, "Maximum number of tokens of a problem or an answer, for learned positions.", ge=4, le=4096
    )
    reach: int = field(13, 4, "Largest difference of place values that relative positions distinguish.", ge=1, le=64)
    far: Literal["shared", "hidden"] = field(
        14,
        "shared",
        "Digits further apart than reach: shared gives them one attention score per direction, hidden masks them.",
    )
    warm_loops: int = field(
        15,
        0,
        "Maximum number of loops without gradient before the others. Training draws their number at random in half of "
        "the steps; 0 disables them.",
        ge=0,
        le=256,
    )
    carry_loops: int = field(
        16,
        0,
        "Loops before carries start to move, by one digit position per loop. Training scores a slot of a sum only "
        "after its carry can arrive. An answer uses one loop per slot plus these, but at least loops. "
        "0 scores every slot and always uses loops.",
        ge=0,
        le=64,
    )
    unit: Unit = field(
        17,
        "none",
        "Symbolic unit before the block's final layer. residue computes + - * exactly, modulo powers of ten; primes "
        "computes modulo small primes; nalu is the published baseline.",
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
        return self.positions == ("relative",) and self.far == "hidden"

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
