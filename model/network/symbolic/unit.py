"""Symbolic units: an exact operation inside the encoder, on what it reads from the hidden states.

A unit stands before the final layer of the block and so is run in every loop. It reads two operands and an
operation, computes, and adds the result to the states of the answer's slots through a gate that begins at zero:
so the encoder begins as the one without. `residue` computes on circles of 10, 100, … steps and says digits
(`residue_arithmetic`), `primes` on those of small primes and says residues (`modular_arithmetic`); `nalu` is the
published baseline (A. Trask et al., "Neural Arithmetic Logic Units", arXiv 1808.00508), on real numbers.

Built in, for all: which tokens are digits or slots and at which place they stand (`positions`), that a digit
at place p counts 10^(p-1), and that an operand has one digit at a place. As a start, which learning may leave: a token
is the digit whose embedding is closest to what was embedded, the operands are the problem's first
two numbers, and slots are not read. For `residue` and `primes` also: what +, - and * are, and for `residue` that a
number is written as a sign and decimal digits.
Learnt: which operation is asked for, whether operands are others than the first two numbers (the slots' own
digits from the run before among them), what a written result means to the layers behind, blanks before its first
digit, and where it is of no use. Brackets, signs before a number and further operands are nothing that a unit knows
of. It sees neither the answer nor anything else that the encoder doesn't see.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot, pad

from model.config.encoder import EncoderConfig
from model.network.positions import HIDDEN, Where, digit_pieces
from model.network.symbolic.modular_arithmetic import PRIMES, residues
from model.network.symbolic.nalu import Nalu
from model.network.symbolic.residue_arithmetic import multiples, product, signed_digits
from model.tokenizer import Tokenizer

OPERATIONS = ("+", "-", "*")

# How much closer a token's own digit is to it than others, in nats, before anything is learnt.
_CLOSENESS = 16.0
# How much the first number is read as the first operand and the second as the second, and how little
# the answer's slots, in nats, before anything is learnt.
_READ, _UNREAD = 3.0, -3.0
# Numbers that the baseline computes of its two operands.
_NALU_OUTPUTS = 4


class Reading(NamedTuple):
    """What a unit reads of n problems."""

    digits: Tensor
    """How likely each digit of both operands is, [n, 2, places, 10], the units first."""
    attention: Tensor
    """How much of each token is in each place of the operands, [n, 2, places, width]; what is left is no digit."""
    operation: Tensor
    """How likely each of `OPERATIONS` is asked for, [n, 3]."""


class Reader(nn.Module):
    """Reads operands and operation from hidden states by attention."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.digits = nn.Linear(config.width, 10)
        self.scores = nn.Linear(config.width, 2)
        # What all digits of an operand of the problem have in common.
        self.operands = nn.Embedding(config.operands + 1, 2)
        self.attention = nn.Linear(config.width, 1)
        self.operation = nn.Linear(config.width, len(OPERATIONS))
        self.register_buffer("pieces", digit_pieces(tokenizer), persistent=False)
        self.register_buffer("nothing", one_hot(torch.tensor(0), 10).float(), persistent=False)
        self.pieces: Tensor
        self.nothing: Tensor

    def forward(
        self, hidden: Tensor, embedded: Tensor, padding: Tensor, where: Where, tokens: Tensor, places: int
    ) -> Reading:
        """Read states [n, width, d] of tokens that were embedded as `embedded` [n, width, d].

        `tokens` [pieces, d] are all tokens' embeddings. A digit is told by how close what was embedded is to the
        digits' own, and by the state. For each place, attention chooses among the tokens that stand there and none.
        """
        states = self.norm(hidden)
        close = normalize(embedded, dim=-1) @ normalize(tokens[self.pieces], dim=-1).T
        told = (_CLOSENESS * close + self.digits(states)).softmax(-1)
        attention, none = self._attention(states, where, places)
        digits = attention @ told[:, None] + none * self.nothing
        weights = (self.attention(states).squeeze(-1) + padding).softmax(-1)
        operation = self.operation((weights[:, None] @ states).squeeze(1)).softmax(-1)
        return Reading(digits, attention, operation)

    def _attention(self, states: Tensor, where: Where, places: int) -> tuple[Tensor, Tensor]:
        """Attention of both operands' places, [n, 2, places, width], and what is left for none, [n, 2, places, 1]."""
        numbers = where.operand.clamp(max=self.operands.num_embeddings - 1)
        scores = self.scores(states) + self.operands(numbers)
        begun = where.operand[..., None] == torch.arange(1, 3, device=states.device)
        scores = (scores + torch.where(begun, _READ, _UNREAD)).transpose(1, 2)
        here = where.place[:, None] == torch.arange(1, places + 1, device=states.device)[:, None]
        scores = torch.where(here[:, None], scores[:, :, None], HIDDEN)
        return pad(scores, (0, 1)).softmax(-1).split([scores.shape[-1], 1], -1)


class Result(nn.Module):
    """What a unit says of the result at each slot, by what it read."""

    features: int
    """How many numbers it says at a slot."""


class ResidueResult(Result):
    """Computes on circles of 10, 100, … steps, and says digit and sign."""

    features = 12

    def forward(self, reading: Reading, slots: int) -> Tensor:
        """Digit and sign of the result as likely as they are, [n, slots, 12]: ten digits, not negative, negative.

        The first slot is the sign's, the others hold the digits down to the units.
        """
        first, second = reading.digits.unbind(1)
        rows = multiples(second, slots)
        one, other = multiples(first, slots)[:, 1], rows[:, 1]
        points = torch.stack([one * other, one * other.conj(), product(first, rows)], 1)
        negative, digits = signed_digits(points)
        sign = torch.stack([1 - negative, negative], -1)
        sign, digits = ((reading.operation[..., None, None] * each).sum(1) for each in (sign[:, :, None], digits))
        blank = torch.zeros_like(digits)
        return torch.cat([torch.cat([blank[:, :1], digits.flip(1)], 1), torch.cat([sign, blank[..., :2]], 1)], -1)


class PrimesResult(Result):
    """Computes on circles of small primes, and says the residues; all slots are told the same."""

    features = sum(PRIMES)

    def forward(self, reading: Reading, slots: int) -> Tensor:
        """Residues of the result as likely as they are, [n, slots, features]."""
        first, second = reading.digits.unbind(1)
        found = torch.cat([residues(first, second, reading.operation, prime) for prime in PRIMES], -1)
        return found[:, None].expand(-1, slots, -1)


class NaluResult(Result):
    """The published baseline, on the operands' values."""

    features = 2 * _NALU_OUTPUTS

    def __init__(self) -> None:
        super().__init__()
        self.nalu = Nalu(2, _NALU_OUTPUTS)

    def forward(self, reading: Reading, slots: int) -> Tensor:
        """Real results for each slot, [n, slots, 2k]: in units of the next place, within ±1, and as logarithms."""
        values = self.nalu(values_of(reading.digits), reading.operation)
        places = torch.arange(slots - 1, -1, -1, device=values.device, dtype=values.dtype) + 1
        shares = (values[:, None] / 10.0 ** places[:, None]).tanh()
        logarithms = (values.sign() * values.abs().log1p() / 10)[:, None].expand_as(shares)
        return torch.cat([shares, logarithms], -1)


RESULTS: dict[str, type[Result]] = {"residue": ResidueResult, "primes": PrimesResult, "nalu": NaluResult}


class SymbolicUnit(nn.Module):
    """Reads, computes and writes the result to the slots through its gate."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer) -> None:
        """Raises `UserError` for a tokenizer whose pieces hold several digits."""
        super().__init__()
        self.reader = Reader(config, tokenizer)
        kind = RESULTS[config.unit]
        self.result = kind()
        self.write = nn.Linear(kind.features, config.width, bias=False)
        self.gate = nn.Parameter(torch.zeros(config.width))

    def forward(
        self, hidden: Tensor, embedded: Tensor, padding: Tensor, where: Where, tokens: Tensor, slots: int
    ) -> Tensor:
        """The states [n, width, d] with the result added to those of the last `slots`.

        `padding` [n, width], added to the scores of attention, hides it; for the rest see `Reader`. All is
        float32, whatever the arithmetic around it: bfloat16 tells only some 200 angles apart.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            reading = self.reader(hidden.float(), embedded.float(), padding.float(), where, tokens.float(), slots)
            features = self.result(reading, slots)
            written = self.gate * self.write(features) * math.sqrt(features.shape[-1])
        return torch.cat([hidden[:, :-slots], hidden[:, -slots:] + written.to(hidden.dtype)], 1)


def values_of(digits: Tensor) -> Tensor:
    """Expected values of numbers by their digits [..., places, 10]: [...].

    Digits beyond the thirtieth count as if they stood there: float32 knows no larger numbers.
    """
    places = 10.0 ** torch.arange(digits.shape[-2], device=digits.device).clamp(max=30)
    return (digits @ torch.arange(10.0, device=digits.device)) @ places
