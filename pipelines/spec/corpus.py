"""The specification of a corpus: the parameters that determine every one of its rows."""

from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipelines.split.reserved import ListingName, listing
from storage.datasets.manifest import SPLITS, hash_of
from storage.errors import UserError
from storage.form import Form
from storage.order import LARGEST_SIZE
from storage.workspace import checked_name

# During generation, the spec is saved in this file below the corpus's folder, so that the run can be repeated.
UNFINISHED = ".progress/spec.yaml"

Operator = Literal["+", "-", "*"]
FamilyName = Literal["grid", "digits", "expression", "marks", "steps", "listed"]

# The parameters of each family; all others must keep their defaults.
_FAMILY_FIELDS: dict[str, tuple[str, ...]] = {
    "grid": ("terms", "operators", "low", "high"),
    "digits": ("terms", "operators", "min_terms", "min_digits", "digits", "hard"),
    "expression": ("terms", "operators", "min_terms", "min_digits", "digits", "depth", "min_depth"),
    "marks": ("terms", "operators", "min_terms", "min_digits", "digits", "depth", "whole_brackets"),
    "listed": ("listing", "operators", "digits"),
    "steps": ("operators", "digits", "digits_per_step"),
}
_ALL_FAMILY_FIELDS = {name for names in _FAMILY_FIELDS.values() for name in names}
# Families whose different problems are not counted.
_UNCOUNTED = ("expression", "marks", "steps")
# Fields that are omitted when they have their defaults: corpora made before these fields keep their identity.
_LATER_FIELDS = {"min_depth", "digits_per_step", "whole_brackets"}
_LARGEST_GRID = 99_999
_LONGEST_PROBLEM = 16_384
# A range is one task and at least one line of the manifest; at 2 M rows each, this limit is 2·10¹² rows.
_MOST_RANGES = 1 << 20
# Digits of the largest product in `pipelines.problems.arithmetic`, less one limb for the carry of the sign.
_LONGEST_PRODUCT = 7_180
# In 'marks': minuses directly before a number or a bracket, and brackets around one number or subexpression.
LONGEST_CHAIN, MOST_BRACKETS = 7, 3


class ProblemSpec(Form):
    """One family of problems with its parameters."""

    family: FamilyName = Field(
        "grid",
        description="Problem family: 'grid' has every combination of operands from one range, 'digits' has operands of "
        "any length, 'expression' has nested brackets, 'marks' has states of a rewriting with marks of the next "
        "operations, 'steps' has single sums, differences and digit products of a rewriting, 'listed' has fixed "
        "problems, all in the test split.",
    )
    terms: int = Field(
        4,
        ge=2,
        le=64,
        description="Number of operands per problem; the maximum for 'digits', 'expression' and 'marks'.",
    )
    operators: tuple[Operator, ...] = Field(
        ("+",), min_length=1, max_length=3, description="Operators between operands."
    )
    low: int = Field(0, ge=0, le=_LARGEST_GRID, description="Grid: smallest operand.")
    high: int = Field(99, ge=0, le=_LARGEST_GRID, description="Grid: largest operand.")
    min_terms: int = Field(2, ge=2, le=64, description="Digits, expression, marks: minimum number of operands.")
    digits: int = Field(
        2,
        ge=1,
        le=1_000,
        description="Digits, expression, marks, steps, listed: maximum number of digits of an operand.",
    )
    min_digits: int = Field(
        1, ge=1, le=1_000, description="Digits, expression, marks: minimum number of digits of an operand."
    )
    hard: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Digits: share of rows with long chains of columns that propagate a carry or borrow, or with nines "
        "in a product.",
    )
    depth: int = Field(2, ge=0, le=32, description="Expression, marks: maximum nesting depth of brackets.")
    min_depth: int = Field(
        0, ge=0, le=32, description="Expression: minimum nesting depth of brackets in every problem."
    )
    whole_brackets: bool = Field(
        False, description="Marks: mark an operation that fills a bracket together with the bracket."
    )
    digits_per_step: int = Field(
        1, ge=1, le=4, description="Steps: number of digits of the second factor that one step of a product consumes."
    )
    listing: Literal["", ListingName] = Field("", description="Listed: name of the list of problems.")

    @model_validator(mode="after")
    def _family(self) -> "ProblemSpec":
        if changed := _changed(self, _ALL_FAMILY_FIELDS - set(_FAMILY_FIELDS[self.family])):
            families = " and ".join(family for family, names in _FAMILY_FIELDS.items() if changed[0] in names)
            raise ValueError(f"{changed[0]} belongs to {families}, not to family {self.family!r}: leave it out")
        if len(set(self.operators)) != len(self.operators):
            raise ValueError(f"operators {list(self.operators)} contain a duplicate: name each once")
        if self.family == "grid":
            self._check_grid()
        elif self.family == "listed":
            self._check_listing()
        else:
            self._check_lengths()
        return self

    def _check_listing(self) -> None:
        if not self.listing:
            raise ValueError("listing is empty: set it to edge, adderboard, products or chains")
        if not self.size:
            raise ValueError(
                f"list {self.listing!r} has no problem with {' '.join(self.operators)} and at most {self.digits} "
                "digits: choose other operators or raise digits"
            )

    def _check_grid(self) -> None:
        if self.terms > 8:
            raise ValueError(f"terms is {self.terms}, a grid has at most 8: lower it, or use family 'digits'")
        if self.high < self.low:
            raise ValueError(f"high is {self.high}, below low ({self.low}): raise high or lower low")
        if self.size > LARGEST_SIZE:
            raise ValueError(f"the grid has {self.size:,} problems, the limit is {LARGEST_SIZE:,}: lower terms or high")
        if self.high**self.terms > LARGEST_SIZE and "*" in self.operators:
            raise ValueError(
                f"products of {self.terms} numbers up to {self.high} exceed 62 bits: lower terms or high, "
                "or use family 'digits'"
            )

    def _check_lengths(self) -> None:
        for least, most in (("min_terms", "terms"), ("min_digits", "digits"), ("min_depth", "depth")):
            if getattr(self, least) > getattr(self, most):
                raise ValueError(
                    f"{least} is {getattr(self, least)}, above {most} ({getattr(self, most)}): "
                    f"raise {most} or lower {least}"
                )
        if self.min_depth and self.min_terms < self.min_depth + 2:
            raise ValueError(
                f"min_depth is {self.min_depth}, which needs {self.min_depth + 2} operands, but min_terms is "
                f"{self.min_terms}: raise min_terms"
            )
        if self.min_depth and "-" not in self.operators:
            raise ValueError(f"min_depth is {self.min_depth}, which needs the operator '-': add it to operators")
        if self.digits_per_step > self.digits:
            raise ValueError(
                f"digits_per_step is {self.digits_per_step}, but operands have at most {self.digits} digits: lower it"
            )
        longest = self.most_tokens(1)[0] + 1
        if longest > _LONGEST_PROBLEM:
            raise ValueError(
                f"problems can have {longest:,} characters, the limit is {_LONGEST_PROBLEM:,}: lower terms or digits"
            )
        if (
            self.family in ("expression", "marks")
            and "*" in self.operators
            and self.terms * self.digits > _LONGEST_PRODUCT
        ):
            raise ValueError(
                f"products can have {self.terms * self.digits:,} digits, the limit is {_LONGEST_PRODUCT:,}: "
                "lower terms or digits, or leave '*' out"
            )

    @property
    def size(self) -> int:
        """Number of different problems; for expressions and steps, which repeat, the largest possible size."""
        choices = len(self.operators)
        if self.family == "grid":
            return int((self.high - self.low + 1) ** self.terms * choices ** (self.terms - 1))
        if self.family == "digits":
            numbers = 10**self.digits - (10 ** (self.min_digits - 1) if self.min_digits > 1 else 0)
            return sum(int(numbers**terms * choices ** (terms - 1)) for terms in range(self.min_terms, self.terms + 1))
        if self.family == "listed":
            return len(listing(self.listing, self.operators, self.digits)) if self.listing else 0
        return LARGEST_SIZE

    def most_tokens(self, group: int) -> tuple[int, int]:
        """Maximum number of tokens of a problem and of a signed answer, if a token holds up to `group` digits."""
        if self.family == "steps":
            return self._most_step_tokens(group)
        digits = len(str(self.high)) if self.family == "grid" else self.digits
        terms = 2 if self.family == "listed" else self.terms
        if self.family == "marks":
            # A mark has one token, also in a number whose digits are grouped.
            return self._most_units(-(-digits // group)), 1 + self._most_units(digits)
        # Per operand one operator; in an expression also a unary minus, and two brackets and a minus of its node.
        signs = 5 if self.family == "expression" else 1
        answer = terms * digits if "*" in self.operators else digits + len(str(terms))
        return terms * (-(-digits // group) + signs) - 1, 1 + -(-answer // group)

    def _most_step_tokens(self, group: int) -> tuple[int, int]:
        """`most_tokens` of two signed operands and, for a product, of a colon and a register with one more digit."""
        products = "*" in self.operators
        problem = 2 * -(-self.digits // group) + 3
        if products:
            problem += 1 - (-(self.digits + 1) // group)
        return problem, 1 + -(-(self.digits + 1 + products * self.digits_per_step) // group)

    def _most_units(self, number: int) -> int:
        """Maximum number of units of a problem of family 'marks', if a number has `number` units."""
        brackets, chain = min(self.depth, MOST_BRACKETS), LONGEST_CHAIN * ("-" in self.operators)
        # Around a leaf or node: both brackets of each pair, and minuses before the first and the second.
        around = 2 * brackets + chain * (brackets > 0) + ("-" in self.operators) * (brackets > 1)
        return self.terms * (number + 1 + chain + around) + (self.terms - 1) * around - 1

    def parameters(self) -> dict[str, Any]:
        """The family and its parameters as JSON values."""
        values = self.model_dump(mode="json", include={"family", *_FAMILY_FIELDS[self.family]})
        fields = type(self).model_fields
        return {
            name: value for name, value in values.items() if name not in _LATER_FIELDS or value != fields[name].default
        }


class MixturePart(ProblemSpec):
    """One family of a mixture."""

    shown_first = ("weight",)

    weight: float = Field(
        1.0, gt=0, le=1e6, description="Weight of this part; the rows are divided in proportion to the weights."
    )


class CorpusSpec(ProblemSpec):
    """A corpus: one family of problems or a mixture of several, the number of rows, and how they are split."""

    shown_first = ("name",)

    name: str = Field("notebook", description="Name of the corpus in the workspace.")
    mixture: tuple[MixturePart, ...] = Field(
        (),
        max_length=64,
        description="Several families in one corpus, each with its weight; then leave the family parameters above "
        "unset.",
    )
    rows: int = Field(
        0,
        ge=0,
        le=LARGEST_SIZE,
        description="Number of rows to take from the permuted order; 0 takes all, which 'expression', 'marks', 'steps' "
        "and very "
        "large families do not allow.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the row order.")
    split_key: str = Field(
        "numerate",
        min_length=1,
        max_length=100,
        description="Key of the split; corpora with the same key and shares have the same split.",
    )
    validation: float = Field(0.01, gt=0, lt=0.5, description="Share of problems in the validation split.")
    test: float = Field(0.01, gt=0, lt=0.5, description="Share of problems in the test split.")
    rows_per_shard: int = Field(
        1 << 21,
        ge=1_000,
        le=1 << 26,
        description="Number of rows per task; each task writes one shard per split and width.",
    )
    only_test: bool = Field(
        False, description="Keep only the rows of the test split, for a corpus that is used only for evaluation."
    )

    @model_validator(mode="after")
    def _rows(self) -> "CorpusSpec":
        checked_name(self.name, "corpus")
        if self.mixture and (changed := _changed(self, {"family", *_ALL_FAMILY_FIELDS})):
            raise ValueError(f"{changed[0]} is set next to a mixture: set it in the parts of the mixture")
        parts = self.parts
        for name, family in (("digits_per_step", "steps"), ("whole_brackets", "marks")):
            if len({getattr(part, name) for part in parts if part.family == family}) > 1:
                raise ValueError(f"parts of family {family} have different {name}, so answers differ: use one value")
        if not self.only_test and any(part.family == "listed" for part in parts):
            raise ValueError("family 'listed' has only test problems: set only_test too")
        if not self.rows and any(part.family in _UNCOUNTED or part.size > LARGEST_SIZE for part in parts):
            raise ValueError("rows is 0, but there are too many problems to take all: set rows")
        total = sum(part.size for part in parts)
        if self.rows > total:
            raise ValueError(f"rows is {self.rows:,}, but there are {total:,} problems: lower rows, or set 0 for all")
        if self.total_rows > _MOST_RANGES * self.rows_per_shard:
            raise ValueError(
                f"rows_per_shard is {self.rows_per_shard:,}, so {self.total_rows:,} rows need more than "
                f"{_MOST_RANGES:,} tasks: lower rows or raise rows_per_shard"
            )
        return self

    @property
    def parts(self) -> tuple[ProblemSpec, ...]:
        """The families of the corpus, one or several."""
        return self.mixture or (ProblemSpec(**self.parameters()),)

    @property
    def part_rows(self) -> tuple[int, ...]:
        """Rows of each part by weight; rows that a small part cannot provide go to the others."""
        sizes = [part.size for part in self.parts]
        weights = [getattr(part, "weight", 1.0) for part in self.parts]
        return shares_by_weight(self.rows, sizes, weights) if self.rows else tuple(sizes)

    @property
    def total_rows(self) -> int:
        """Rows of the corpus; with `only_test`, the rows before other splits are dropped."""
        return sum(self.part_rows)

    @property
    def kept_splits(self) -> tuple[str, ...]:
        """The splits whose rows are written."""
        return ("test",) if self.only_test else SPLITS

    def identity(self) -> dict[str, Any]:
        """All values that determine the rows, as JSON values; the name is not included."""
        common = {"rows", "seed", "split_key", "validation", "test", "rows_per_shard"}
        values = self.model_dump(mode="json", include=common | ({"only_test"} if self.only_test else set()))
        if self.mixture:
            values["mixture"] = [{"weight": part.weight, **part.parameters()} for part in self.mixture]
        else:
            values |= self.parameters()
        return values

    @classmethod
    def of_identity(cls, name: str, identity: dict[str, Any]) -> "CorpusSpec":
        """The spec in a manifest's `identity`; raises `UserError` if this version cannot read it."""
        try:
            return cls(name=name, **{key: value for key, value in identity.items() if key != "generator_version"})
        except ValidationError as error:
            raise UserError(
                f"corpus {name!r} was generated by another version of Numerate: generate it again"
            ) from error


TokenizerKind = Literal["digit", "pairs", "triples", "bpe", "unigram"]


class TokenizerSpec(Form):
    """Parameters for training a tokenizer."""

    kind: TokenizerKind = Field(
        "digit",
        description="Kind of tokens: 'digit' has one token per character, 'pairs' and 'triples' have groups of two or "
        "three digits from the right of each number, 'bpe' and 'unigram' have pieces learned by SentencePiece.",
    )
    sample_rows: int = Field(
        200_000,
        ge=1_000,
        le=2_000_000,
        description="Number of problems of the train split on which the tokenizer is trained.",
    )
    proof_rows: int = Field(
        20_000, ge=100, le=1_000_000, description="Number of problems whose exact round trip is checked."
    )
    vocabulary: int = Field(
        256,
        ge=32,
        le=32_000,
        description="Bpe, unigram: maximum number of pieces; up to 256 need one byte per token, more need two.",
    )

    @model_validator(mode="after")
    def _kind(self) -> "TokenizerSpec":
        if self.group and _changed(self, {"vocabulary"}):
            raise ValueError(f"vocabulary belongs to bpe and unigram, not to kind {self.kind!r}: leave it out")
        return self

    @property
    def group(self) -> int:
        """Maximum number of digits per token, counted from the right of a number; 0 for learned pieces."""
        return {"digit": 1, "pairs": 2, "triples": 3}.get(self.kind, 0)

    @property
    def spec_hash(self) -> str:
        """Hash of the values that determine the pieces; `vocabulary` counts only for learned pieces."""
        return hash_of(self.model_dump(mode="json", exclude={"vocabulary"} if self.group else set()))


def _changed(form: Form, names: set[str]) -> list[str]:
    """Those of these fields that have another value than their default, sorted."""
    fields = type(form).model_fields
    return sorted(name for name in names & form.model_fields_set if getattr(form, name) != fields[name].default)


def shares_by_weight(rows: int, sizes: list[int], weights: list[float]) -> tuple[int, ...]:
    """Divides `rows` by weight, none above its size; rounding goes to the largest remainders."""
    shares = [0] * len(sizes)
    takers, left = list(range(len(sizes))), rows
    while takers:
        total = sum(Fraction(weights[part]) for part in takers)
        exact = {part: left * Fraction(weights[part]) / total for part in takers}
        full = [part for part in takers if exact[part] >= sizes[part]]
        for part in full or takers:
            shares[part] = sizes[part] if full else int(exact[part])
            left -= shares[part]
        if not full:
            for part in sorted(takers, key=lambda part: exact[part] - int(exact[part]), reverse=True)[:left]:
                shares[part] += 1
            break
        takers = [part for part in takers if part not in full]
    return tuple(shares)
