"""Symbolic units: arithmetic inside the encoder, on operands read from the hidden states.

A unit precedes the final layer of the block, so it runs in every loop. It reads two operands and an operation,
computes the result, and adds it to the states of the answer's slots. The gate of this addition starts at zero, so the
initial encoder equals one without a unit. `residue` computes modulo 10, 100, … and writes digits
(`residue_arithmetic`). `primes` computes modulo small primes and writes residues (`modular_arithmetic`). `nalu` is the
published baseline on real numbers (A. Trask et al., "Neural Arithmetic Logic Units", arXiv 1808.00508).

Built into every unit: which tokens are digits or slots, their place values (`positions`), the value 10^(p-1) of a
digit at place p, and one digit per position of an operand. Initial assumptions that training can change: a token is
the digit with the closest embedding, the operands are the first two numbers, and slots are not read. `residue` and
`primes` also have +, - and * built in, and `residue` the notation as sign and decimal digits.
Learned: the operation, other operands (including slots, with digits of the previous loop), the meaning of the result
for later layers, leading blanks, and when to ignore the result. A unit does not represent brackets, signs before a
number or further operands. It has the same input as the encoder, without the answer.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot, pad

from model.config.encoder import EncoderConfig
from model.network.positions import MASKED_SCORE, TokenPositions
from model.network.symbolic.modular_arithmetic import PRIMES, residues
from model.network.symbolic.nalu import Nalu
from model.network.symbolic.residue_arithmetic import multiples, product, signed_digits
from model.tokenizer import DIGITS, Tokenizer

OPERATIONS = ("+", "-", "*")

# Logit per unit of cosine similarity between a token's embedding and a digit's embedding.
_CLOSENESS = 16.0
# Initial attention logits of an operand: for the tokens of its number in the problem, and for all other tokens.
_READ, _UNREAD = 3.0, -3.0
# Number of outputs that the baseline computes from its two operands.
_NALU_OUTPUTS = 4


class UnitInputs(NamedTuple):
    """A batch of n problems as every loop's call of a unit reads it, besides the hidden states."""

    embedded: Tensor
    """Input embeddings, [n, width, d]."""
    padding: Tensor
    """Added to attention scores, [n, width]; masks padding."""
    positions: TokenPositions
    tokens: Tensor
    """The embedding table, [pieces, d]."""
    slots: int
    """Number of last tokens that are the answer, and of digit positions read from an operand."""


class Reading(NamedTuple):
    """The operands and operations of n problems, as read by a unit."""

    digits: Tensor
    """Digit probabilities of both operands, [n, 2, places, 10], units first."""
    attention: Tensor
    """Attention of each operand position to each token, [n, 2, places, width]; the rest to 1 counts as digit 0."""
    operation: Tensor
    """Probability of each of `OPERATIONS`, [n, 3]."""


class Reader(nn.Module):
    """Reads operands and operation from hidden states by attention."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        tokenizer.character_ids()
        self.norm = nn.LayerNorm(config.width)
        self.digits = nn.Linear(config.width, 10)
        self.scores = nn.Linear(config.width, 2)
        # One score per operand, shared by all its tokens.
        self.operands = nn.Embedding(config.operands + 1, 2)
        self.attention = nn.Linear(config.width, 1)
        self.operation = nn.Linear(config.width, len(OPERATIONS))
        self.pieces = nn.Buffer(torch.tensor([tokenizer.id_of(digit) for digit in DIGITS]), persistent=False)
        self.nothing = nn.Buffer(one_hot(torch.tensor(0), 10).float(), persistent=False)

    def forward(self, hidden: Tensor, inputs: UnitInputs) -> Reading:
        """Read hidden states [n, width, d].

        The digit of a token is predicted from the similarity of its embedding to those of the digits, and from its
        state. At each position, attention chooses among the tokens with that place value, or none of them.
        """
        states = self.norm(hidden)
        close = normalize(inputs.embedded, dim=-1) @ normalize(inputs.tokens[self.pieces], dim=-1).T
        read = (_CLOSENESS * close + self.digits(states)).softmax(-1)
        attention, none = self._attention(states, inputs.positions, inputs.slots)
        digits = attention @ read[:, None] + none * self.nothing
        weights = (self.attention(states).squeeze(-1) + inputs.padding).softmax(-1)
        operation = self.operation((weights[:, None] @ states).squeeze(1)).softmax(-1)
        return Reading(digits, attention, operation)

    def _attention(self, states: Tensor, positions: TokenPositions, places: int) -> tuple[Tensor, Tensor]:
        """Attention of both operands' positions [n, 2, places, width], and the weight of no token [n, 2, places, 1]."""
        numbers = positions.operand.clamp(max=self.operands.num_embeddings - 1)
        scores = self.scores(states) + self.operands(numbers)
        begun = positions.operand[..., None] == torch.arange(1, 3, device=states.device)
        scores = (scores + torch.where(begun, _READ, _UNREAD)).transpose(1, 2)
        here = positions.place_value[:, None] == torch.arange(1, places + 1, device=states.device)[:, None]
        scores = torch.where(here[:, None], scores[:, :, None], MASKED_SCORE)
        return pad(scores, (0, 1)).softmax(-1).split([scores.shape[-1], 1], -1)


class Result(nn.Module):
    """Computes a unit's result from its reading, as features for each slot."""

    features: int
    """Number of features per slot."""


class ResidueResult(Result):
    """Computes modulo 10, 100, … and returns digit and sign probabilities."""

    features = 12

    def forward(self, reading: Reading, slots: int) -> Tensor:
        """Probabilities of the result, [n, slots, 12]: ten digits, not negative, negative.

        The first slot holds the sign; the other slots hold the digits, units last.
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
    """Computes modulo small primes and returns residue probabilities, the same for all slots."""

    features = sum(PRIMES)

    def forward(self, reading: Reading, slots: int) -> Tensor:
        """Residue probabilities of the result, [n, slots, features]."""
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
        """Features [n, slots, 2k] of k real results v: tanh(v/10^p), with p from 1 at the last slot, and logarithms."""
        values = self.nalu(values_of(reading.digits), reading.operation)
        places = torch.arange(slots - 1, -1, -1, device=values.device, dtype=values.dtype) + 1
        shares = (values[:, None] / 10.0 ** places[:, None]).tanh()
        logarithms = (values.sign() * values.abs().log1p() / 10)[:, None].expand_as(shares)
        return torch.cat([shares, logarithms], -1)


RESULTS: dict[str, type[Result]] = {"residue": ResidueResult, "primes": PrimesResult, "nalu": NaluResult}


class SymbolicUnit(nn.Module):
    """Reads the problem, computes the result, and adds it to the slots' states through a gate."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer) -> None:
        """Raises `UserError` for a tokenizer whose pieces hold several digits."""
        super().__init__()
        self.reader = Reader(config, tokenizer)
        kind = RESULTS[config.unit]
        self.result = kind()
        self.write = nn.Linear(kind.features, config.width, bias=False)
        self.gate = nn.Parameter(torch.zeros(config.width))

    def forward(self, hidden: Tensor, inputs: UnitInputs) -> Tensor:
        """The states [n, width, d], with the result added at the slots.

        The unit always computes in float32, because bfloat16 resolves only about 200 angles.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            reading = self.reader(hidden.float(), inputs)
            features = self.result(reading, inputs.slots)
            written = self.gate * self.write(features) * math.sqrt(features.shape[-1])
        slots = inputs.slots
        return torch.cat([hidden[:, :-slots], hidden[:, -slots:] + written.to(hidden.dtype)], 1)


def values_of(digits: Tensor) -> Tensor:
    """Expected values [...] of numbers from their digit probabilities [..., places, 10].

    The place value is limited to 10^30, because larger numbers approach the limit of float32.
    """
    places = 10.0 ** torch.arange(digits.shape[-2], device=digits.device).clamp(max=30)
    return (digits @ torch.arange(10.0, device=digits.device)) @ places
