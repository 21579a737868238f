"""The encoder: reads a whole problem and predicts the logits of every answer slot in one pass.

It is the bidirectional Transformer of "Attention Is All You Need" (section 3, encoder side). The norm comes before
each sublayer or, as in the paper, after it. The block can run several times, with its input added each time (looped
Transformer, arXiv 2405.17399). Attention uses plain matrix products: at these widths they are about four times as
fast as the fused kernels on a CPU (8.0 k against 2.0 k rows/s, bf16, two cores).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from model.config.encoder import EncoderConfig
from model.network.positions import MASKED_SCORE, PositionEmbedding, Positions, RelativeBias, TokenPositions
from model.network.symbolic.unit import SymbolicUnit, UnitInputs
from model.objectives.column_sums import OUTPUTS
from model.tokenizer import PAD, Tokenizer

# Maps hidden states [n, width, d] to new ones of the same shape.
Operate = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Inputs:
    """A batch of token rows [n, width] as every run of the block reads it; computed once per batch."""

    embedded: Tensor
    """Sum of token and position embeddings, [n, width, d]."""
    bias: Tensor
    """Added to attention scores, [n, heads or 1, width or 1, width]."""
    unit: Operate | None
    """The symbolic unit with its inputs; None disables it."""
    sharpness: float = 1.0
    """Factor on attention scores, without their bias."""


class SelfAttention(nn.Module):
    """Scaled dot-product attention with several heads."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = 1.0 / math.sqrt(config.width // config.heads)
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, hidden: Tensor, bias: Tensor, last: int, sharpness: float) -> Tensor:
        """New states [n, last, d] of the last positions of `hidden` [n, width, d].

        The scores are multiplied by `sharpness`; then `bias` [n, heads or 1, last or 1, width] is added.
        """
        mixed = self.queries_keys_values(hidden).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = mixed.permute(2, 0, 3, 1, 4)
        scores = queries[:, :, -last:] @ keys.transpose(-1, -2) * (self.scale * sharpness) + bias
        weighted = scores.softmax(-1).to(values.dtype) @ values
        return self.output(weighted.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and feed-forward sublayers with residual connections; the norm is before (`pre`) or after (`post`)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.prenorm = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.feedforward)
        self.contract = nn.Linear(config.feedforward, config.width)

    def forward(self, hidden: Tensor, bias: Tensor, last: int, sharpness: float) -> Tensor:
        """New states [n, last, d] of the last positions of `hidden` [n, width, d]."""
        if self.prenorm:
            hidden = hidden[:, -last:] + self.attention(self.attention_norm(hidden), bias, last, sharpness)
            return hidden + self._feedforward(self.feedforward_norm(hidden))
        hidden = self.attention_norm(hidden[:, -last:] + self.attention(hidden, bias, last, sharpness))
        return self.feedforward_norm(hidden + self._feedforward(hidden))

    def _feedforward(self, hidden: Tensor) -> Tensor:
        return self.contract(torch.relu(self.expand(hidden)))


class Encoder(nn.Module):
    """Predicts the logits of the answer's slots from token ids."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer, *, running_sum: bool = False) -> None:
        """`running_sum` adds a second output layer (`model.objectives.column_sums`), which only training uses."""
        super().__init__()
        self.config = config
        self.pad = tokenizer.id_of(PAD)
        # Section 3.4 of the paper: scales embeddings to the magnitude of the sines and cosines added to them.
        self.scale = math.sqrt(config.width) if "sinusoidal" in config.positions else 1.0
        self.token_positions = Positions(tokenizer)
        self.tokens = nn.Embedding(tokenizer.size, config.width)
        self.positions = PositionEmbedding(config)
        self.bias = RelativeBias(config) if "relative" in config.positions else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.head = nn.Linear(config.width, tokenizer.size)
        # Created last, so that the other weights are initialised identically with and without these modules.
        self.running_sum = nn.Linear(config.width, OUTPUTS) if running_sum else None
        self.unit = SymbolicUnit(config, tokenizer) if config.unit != "none" else None

    def initialise(self, seed: int) -> None:
        """Draw all weights from `seed`: normal(0, 0.02) embeddings, and matrices with standard deviation 1/√fan-in.

        With sinusoidal positions, embeddings have the standard deviation 1/√width. Biases are zero. Operand ids,
        depths and relative scores start at zero, so that the initial function treats all operands alike. With random
        initial values, half of the trials stayed on a plateau for 1,800 steps (EXPERIMENTS.md).
        """
        generator = torch.Generator().manual_seed(seed)
        zero = ("positions.operands", "positions.depths", "bias", "unit.reader.operands")
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.startswith(zero) or (weight.ndim == 1 and "norm" not in name):
                    weight.zero_()
                elif weight.ndim == 2:
                    fan_in = self.scale > 1 or name.startswith(("layers", "head", "running_sum", "unit"))
                    spread = weight.shape[1] ** -0.5 if fan_in else 0.02
                    weight.copy_(torch.randn(weight.shape, generator=generator) * spread)

    def forward(self, ids: Tensor, slots: int, *, loops: int = 0, last: int = 0) -> Tensor:
        """Logits [n, slots, pieces] of token ids [n, width], uint8 or int64, whose last `slots` tokens are the answer.

        `loops` overrides the configured number of runs of the block. `last` returns logits of the last `last` tokens
        instead.
        """
        inputs = self.embed(ids, slots)
        return self.head(self.iterate(inputs, loops or self.config.loops_of(slots), last or slots))

    def embed(
        self, ids: Tensor, slots: int, *, positions: TokenPositions | None = None, offset: Tensor | None = None
    ) -> Inputs:
        """Inputs of the block for token ids [n, width], uint8 or int64, whose last `slots` tokens are the answer.

        `positions` are those of `ids` if they are known already. `offset` [n] shifts place values
        (`PositionEmbedding`).
        """
        ids = ids.long()
        positions = positions or self.token_positions(ids, slots)
        embedded = self.tokens(ids) * self.scale + self.positions(positions, offset)
        bias = torch.zeros(ids.shape, dtype=embedded.dtype, device=ids.device)
        bias = padding = bias.masked_fill(ids == self.pad, MASKED_SCORE)[:, None, None, :]
        if self.bias:
            bias = bias + self.bias(positions)
        unit: Operate | None = None
        if self.unit:
            unit_inputs = UnitInputs(embedded, padding[:, 0, 0], positions, self.tokens.weight, slots)
            unit = partial(self.unit, inputs=unit_inputs)
        return Inputs(embedded, bias, unit)

    def iterate(self, inputs: Inputs, loops: int, last: int, state: Tensor | float = 0.0) -> Tensor:
        """States [n, last, d] of the last `last` tokens after `loops` runs of the block, from `state` [n, width, d].

        Every run adds the embeddings to the state. The final layer of the final run computes no other tokens.
        """
        for _ in range(loops - 1):
            state = self._block(state + inputs.embedded, inputs, inputs.embedded.shape[1])
        return self._block(state + inputs.embedded, inputs, last)

    def _block(self, hidden: Tensor, inputs: Inputs, last: int) -> Tensor:
        """New states [n, last, d] of the last positions of `hidden` [n, width, d].

        States are normalised after every run. Otherwise their norm grows, and late updates, such as a distant carry,
        lose relative weight (EXPERIMENTS.md).
        """
        for layer in self.layers[:-1]:
            hidden = layer(hidden, inputs.bias, hidden.shape[1], inputs.sharpness)
        if inputs.unit:
            hidden = inputs.unit(hidden)
        return self.norm(self.layers[-1](hidden, inputs.bias[:, :, -last:], last, inputs.sharpness))

    def parameter_count(self) -> int:
        return sum(weight.numel() for weight in self.parameters())
