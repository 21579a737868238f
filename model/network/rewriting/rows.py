"""What the rewriting encoder reads of a token row: the fields of one operation, or the units of an expression.

An operation has three fields, aligned at their units digits: the operands a and b, and the register R of a product.
Two borders enclose the places of a row, one below the units and one above the highest place that its result can need.
So place values are given, not learned. An expression's units are its operators, brackets and numbers. Only the
first digit of a number is read.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from model.network.positions import Positions, digit_values, piece_masks
from model.tokenizer import DIGITS, PAD, Tokenizer

# Contents of a field's place besides the digits.
EMPTY, BORDER, OUTSIDE = 10, 11, 12
CONTENTS = 13
FIELDS = 3

# The kinds of operation, and the flags that tell them and both signs.
ADD, SUBTRACT, MULTIPLY, UNARY = range(4)
FLAGS = 8
_OPERATION_FLAG, _SECOND_SIGN_FLAG = 2, 6


class Operations(NamedTuple):
    """One operation in each of n rows; E is the number of places with both borders, the lower border first."""

    fields: Tensor
    """Contents of the places of a, b and R, int64 [n, 3, E]."""
    flags: Tensor
    """Indices of three flags, int64 [n, 3]: the sign of a, the kind of operation, the sign of b."""
    places: Tensor
    """Number of places between the borders of each row, int64 [n]."""

    @property
    def kind(self) -> Tensor:
        """`ADD`, `SUBTRACT`, `MULTIPLY` or `UNARY`, int64 [n]."""
        return self.flags[:, 1] - _OPERATION_FLAG

    @property
    def negative(self) -> Tensor:
        """Whether a and b have a minus, bool [n, 2]."""
        return torch.stack([self.flags[:, 0] == 1, self.flags[:, 2] == _SECOND_SIGN_FLAG + 1], 1)

    @property
    def inside(self) -> Tensor:
        """Which places are between the borders of their row, bool [n, E − 2]."""
        return torch.arange(self.fields.shape[2] - 2, device=self.places.device) < self.places[:, None]

    @property
    def lengths(self) -> Tensor:
        """Number of digits of a, b and R, int64 [n, 3]."""
        return (self.fields < EMPTY).sum(2)


class Units(NamedTuple):
    """The units of n expressions; U counts also a unit for the begin and one for the end."""

    ids: Tensor
    """Indices of unit embeddings, int64 [n, U]; 0 is padding."""
    tokens: Tensor
    """Column of each unit's first token in the problem, int64 [n, U]; 0 for begin, end and padding."""
    inside: Tensor
    """Which units belong to the expression, bool [n, U]."""


class RowReader(nn.Module):
    """Reads operations and units from rows of token ids with one token per character; has no weights."""

    def __init__(self, tokenizer: Tokenizer, digits_per_step: int = 1) -> None:
        super().__init__()
        self.digits_per_step = digits_per_step
        self.positions = Positions(tokenizer)
        self.values = digit_values(tokenizer)
        self.kinds = piece_masks(tokenizer, DIGITS, "+-*", "-")
        self.symbols = nn.Buffer(torch.tensor([tokenizer.id_of(symbol) for symbol in "+-*"]), persistent=False)
        self.pad, self.begin, self.end = tokenizer.id_of(PAD), tokenizer.size + 1, tokenizer.size + 2

    @property
    def unit_count(self) -> int:
        """Number of different unit ids: padding, the pieces, begin and end."""
        return self.end + 1

    def operations(self, problem: Tensor) -> Operations:
        """The operation in each row of token ids [n, width], which may begin with padding.

        A row with one number, such as -(-5), is an operation without a: its number is the field b.
        """
        places = self.positions(pad(problem, (0, 1)), 1)
        digit, operator, minus = (kind[problem] for kind in self.kinds)
        place, number = places.place_value[:, : problem.shape[1]], places.operand[:, : problem.shape[1]]
        alone = torch.where(digit, number, 0).max(1).values == 1
        field = number - 1 + alone[:, None].long()
        after_digit = torch.zeros_like(digit)
        after_digit[:, 1:] = digit[:, :-1]
        binary = operator & after_digit
        unary = minus & ~after_digit
        kind = (binary[..., None] & (problem[..., None] == self.symbols)).any(1).long().argmax(1)
        kind = torch.where(alone, torch.where(unary.sum(1) > 1, SUBTRACT, UNARY), kind)
        negative = torch.stack([(unary & (field == which)).any(1) for which in (0, 1)], 1).long()
        lengths = torch.stack([torch.where(digit & (field == which), place, 0).max(1).values for which in range(3)], 1)
        count = _places(kind, lengths, self.digits_per_step)
        size = int(count.max()) + 2
        at = torch.arange(size, device=problem.device)
        contents = torch.where(at < count[:, None] + 1, EMPTY, torch.where(at == count[:, None] + 1, BORDER, OUTSIDE))
        contents[:, 0] = BORDER
        # Tokens that are no digits write to a column of their own, which is dropped.
        target = torch.where(digit & (field < FIELDS), field * (size + 1) + place, FIELDS * (size + 1))
        flat = torch.full((len(problem), FIELDS * (size + 1) + 1), -1, device=problem.device)
        flat.scatter_(1, target, self.values[problem])
        digits = flat[:, :-1].unflatten(1, (FIELDS, size + 1))[:, :, :size]
        fields = torch.where(digits >= 0, digits, contents[:, None])
        flags = torch.stack([negative[:, 0], kind + _OPERATION_FLAG, negative[:, 1] + _SECOND_SIGN_FLAG], 1)
        return Operations(fields, flags, count)

    def units(self, problem: Tensor) -> Units:
        """The units of the expression in each row of token ids [n, width], which may begin with padding."""
        digit = self.kinds[0][problem]
        inner = torch.zeros_like(digit)
        inner[:, 1:] = digit[:, 1:] & digit[:, :-1]
        unit = (problem != self.pad) & ~inner
        number = unit.cumsum(1)
        count = number[:, -1:]
        size = int(count.max()) + 2
        # Tokens that begin no unit write to a column of their own, which is dropped.
        target = torch.where(unit, number, size)
        columns = torch.arange(problem.shape[1], device=problem.device).expand_as(problem)
        blank = torch.zeros(len(problem), size + 1, dtype=torch.long, device=problem.device)
        tokens = blank.scatter(1, target, columns)[:, :size]
        found = blank.scatter(1, target, problem + 1)[:, :size]
        at = torch.arange(size, device=problem.device)
        inside = (at > 0) & (at <= count)
        found = torch.where(inside, found, torch.where(at == count + 1, self.end, 0))
        found[:, 0] = self.begin
        return Units(found, torch.where(inside, tokens, 0), inside)


def _places(kind: Tensor, lengths: Tensor, digits_per_step: int) -> Tensor:
    """Number of places between a row's borders, int64 [n], from the `lengths` of a, b and R [n, 3].

    The result of a sum has at most one digit more than its longer operand. That of a product's step, 10ᵏ·R + a·d, where
    d has k digits, has at most k + 1 more than a and R. One more place shows where b ends.
    """
    first, second, register = lengths.unbind(1)
    product = torch.maximum(torch.maximum(first, register) + digits_per_step, second) + 1
    return torch.where(kind == MULTIPLY, product, torch.maximum(first, second) + 1)
