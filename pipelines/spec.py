"""What a corpus is: the parameters from which every one of its rows follows, and their presets."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.location import checked_name
from storage.manifest import hash_of
from storage.order import LARGEST_SIZE

Operator = Literal["+", "-", "*"]


class CorpusSpec(BaseModel):
    """Every combination of a fixed number of operands from one range, and of operators from a set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("notebook", description="Name of the corpus in the workspace.", json_schema_extra={"position": 0})
    family: Literal["grid"] = Field("grid", description="Kind of problems.", json_schema_extra={"position": 1})
    terms: int = Field(4, ge=2, le=8, description="Operands in a problem.", json_schema_extra={"position": 2})
    low: int = Field(0, ge=0, le=99_999, description="Smallest operand.", json_schema_extra={"position": 3})
    high: int = Field(99, ge=0, le=99_999, description="Largest operand.", json_schema_extra={"position": 4})
    operators: tuple[Operator, ...] = Field(
        ("+",), min_length=1, max_length=3, description="Operators between operands.", json_schema_extra={"position": 5}
    )
    rows: int = Field(
        0, ge=0, description="Rows to take from the permuted order; 0 takes all.", json_schema_extra={"position": 6}
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the row order.", json_schema_extra={"position": 7})
    split_key: str = Field(
        "numerate",
        min_length=1,
        max_length=100,
        description="Key of the split; corpora of one key share their splits.",
        json_schema_extra={"position": 8},
    )
    validation: float = Field(0.01, gt=0, lt=0.5, description="Share of validation.", json_schema_extra={"position": 9})
    test: float = Field(0.01, gt=0, lt=0.5, description="Share of test.", json_schema_extra={"position": 10})
    rows_per_shard: int = Field(
        1 << 21,
        ge=1_000,
        le=1 << 26,
        description="Rows that one task makes; each task writes one shard a split.",
        json_schema_extra={"position": 11},
    )

    @model_validator(mode="after")
    def _bounds(self) -> "CorpusSpec":
        checked_name(self.name, "corpus")
        if self.high < self.low:
            raise ValueError(f"high is {self.high}, below low ({self.low}): raise high or lower low")
        if len(set(self.operators)) != len(self.operators):
            raise ValueError(f"operators {list(self.operators)} name one twice: name each once")
        if self.size > LARGEST_SIZE:
            raise ValueError(
                f"the grid has {self.size:,} problems, at most {LARGEST_SIZE:,} are possible: lower terms or high"
            )
        if max(self.high**self.terms, 1) > LARGEST_SIZE and "*" in self.operators:
            raise ValueError(f"products of {self.terms} numbers up to {self.high} leave 62 bits: lower terms or high")
        if self.rows > self.size:
            raise ValueError(
                f"rows is {self.rows:,}, but the grid has {self.size:,} problems: lower rows, or 0 for all"
            )
        return self

    @property
    def size(self) -> int:
        """Problems in the whole grid."""
        return (self.high - self.low + 1) ** self.terms * len(self.operators) ** (self.terms - 1)

    @property
    def total_rows(self) -> int:
        """Rows of the corpus."""
        return self.rows or self.size

    def identity(self) -> dict[str, Any]:
        """Everything from which the rows follow, as JSON values; the name is not part of it."""
        return self.model_dump(mode="json", exclude={"name"})

    @property
    def spec_hash(self) -> str:
        """Hash of `identity`."""
        return hash_of(self.identity())


class TokenizerSpec(BaseModel):
    """How a tokenizer is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["digit"] = Field(
        "digit", description="What a token is: 'digit' gives one token a character.", json_schema_extra={"position": 0}
    )
    sample_rows: int = Field(
        200_000,
        ge=1_000,
        le=2_000_000,
        description="Problems to train on, drawn from the train split.",
        json_schema_extra={"position": 1},
    )
    proof_rows: int = Field(
        20_000,
        ge=100,
        le=1_000_000,
        description="Problems whose exact round trip is proven.",
        json_schema_extra={"position": 2},
    )
