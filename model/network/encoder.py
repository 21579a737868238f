"""The encoder: reads a whole problem at once and gives logits for every answer slot in one pass.

The bidirectional Transformer of "Attention Is All You Need" (section 3, encoder side), written
out. The norm stands before each sublayer or, as in the paper, behind it; the block can be run
several times with its input added anew (looped, arXiv 2405.17399). Attention is plain matrix
products: at these widths they beat the fused kernels on a CPU severalfold (measured: plain
8.0 k rows/s, fused 2.0 k, bf16, two cores).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from model.config.encoder import EncoderConfig
from model.network.positions import HIDDEN, PositionEmbedding, Positions, RelativeBias
from model.network.symbolic.unit import SymbolicUnit
from model.objectives.column_sums import OUTPUTS
from model.tokenizer import PAD, Tokenizer

# New states of hidden ones, both [n, width, d].
Operate = Callable[[Tensor], Tensor]


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

        `bias` [n, heads or 1, last or 1, width] is added to the scores, which `sharpness` multiplies.
        """
        mixed = self.queries_keys_values(hidden).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = mixed.permute(2, 0, 3, 1, 4)
        scores = queries[:, :, -last:] @ keys.transpose(-1, -2) * (self.scale * sharpness) + bias
        weighted = scores.softmax(-1).to(values.dtype) @ values
        return self.output(weighted.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and feed-forward, each added to the state, with the norm before it (`pre`) or behind (`post`)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.before = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.feedforward)
        self.contract = nn.Linear(config.feedforward, config.width)

    def forward(self, hidden: Tensor, bias: Tensor, last: int, sharpness: float) -> Tensor:
        """New states [n, last, d] of the last positions of `hidden` [n, width, d]."""
        if self.before:
            hidden = hidden[:, -last:] + self.attention(self.attention_norm(hidden), bias, last, sharpness)
            return hidden + self._feedforward(self.feedforward_norm(hidden))
        hidden = self.attention_norm(hidden[:, -last:] + self.attention(hidden, bias, last, sharpness))
        return self.feedforward_norm(hidden + self._feedforward(hidden))

    def _feedforward(self, hidden: Tensor) -> Tensor:
        return self.contract(torch.relu(self.expand(hidden)))


class Encoder(nn.Module):
    """Logits of the answer's slots from token ids; the answer is in nothing but the logits."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer, *, running_sum: bool = False) -> None:
        """`running_sum` adds a second output layer (`model.objectives.column_sums`), which only training reads."""
        super().__init__()
        self.config = config
        self.pad = tokenizer.id_of(PAD)
        # Section 3.4 of the paper: embeddings as large as the sines and cosines that are added to them.
        self.scale = math.sqrt(config.width) if "sinusoidal" in config.positions else 1.0
        self.where = Positions(tokenizer)
        self.tokens = nn.Embedding(tokenizer.size, config.width)
        self.positions = PositionEmbedding(config)
        self.bias = RelativeBias(config) if "relative" in config.positions else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.head = nn.Linear(config.width, tokenizer.size)
        # Last, so that the other weights are drawn alike with them and without.
        self.running_sum = nn.Linear(config.width, OUTPUTS) if running_sum else None
        self.unit = SymbolicUnit(config, tokenizer) if config.unit != "none" else None

    def initialise(self, seed: int) -> None:
        """Draw all weights from `seed`: normal(0, 0.02) embeddings, and matrices at 1/√fan-in.

        Operand ids, depths and relative scores begin at zero, so that training begins with a function
        that treats all operands alike and tells them apart only as far as the problems ask for
        it. Drawn at random, they kept half of the trials on a plateau for 1,800 steps
        (EXPERIMENTS.md).
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

    def forward(
        self,
        ids: Tensor,
        slots: int,
        *,
        loops: int = 0,
        warm: int = 0,
        offset: Tensor | None = None,
        sharpness: float = 1.0,
        asked: int = 0,
        sums: bool = False,
        unit: bool = True,
    ) -> Tensor:
        """Logits [n, slots, pieces] of token ids [n, width], uint8 or int64, the last `slots` of them the answer's.

        `loops` runs of the block instead of the configured number, `warm` more of them before those
        and without gradient (progressive training, arXiv 2202.05826), places shifted by `offset`
        [n] (`PositionEmbedding`), attention scores multiplied by `sharpness`, the symbolic unit left out
        where `unit` is False; logits of the last `asked` tokens instead, and with `sums` the running sum's logits
        behind them [n, asked, pieces + OUTPUTS].
        """
        ids = ids.long()
        where = self.where(ids, slots)
        embedded = self.tokens(ids) * self.scale + self.positions(where, offset)
        bias = torch.zeros(ids.shape, dtype=embedded.dtype, device=ids.device)
        bias = padding = bias.masked_fill(ids == self.pad, HIDDEN)[:, None, None, :]
        if self.bias:
            bias = bias + self.bias(where, ids.shape[1])
        operate: Operate | None = None
        if self.unit and unit:
            seen = {"embedded": embedded, "padding": padding[:, 0, 0], "where": where, "tokens": self.tokens.weight}
            operate = partial(self.unit, slots=slots, **seen)
        asked = asked or slots
        state: Tensor | float = 0.0
        if warm:
            with torch.no_grad():
                for _ in range(warm):
                    state = self._block(state + embedded, bias.detach(), ids.shape[1], sharpness, operate)
            # Autocast would go on with the weights that it rounded here, which take no gradient.
            torch.clear_autocast_cache()
        loops = loops or self.config.loops_of(slots)
        for _ in range(loops - 1):
            state = self._block(state + embedded, bias, ids.shape[1], sharpness, operate)
        # Nothing reads the other states behind the final layer, so it computes those that are asked for alone.
        state = self._block(state + embedded, bias, asked, sharpness, operate)
        if sums and self.running_sum:
            return torch.cat([self.head(state), self.running_sum(state)], -1)
        return self.head(state)

    def _block(
        self, hidden: Tensor, bias: Tensor, last: int, sharpness: float, operate: Operate | None = None
    ) -> Tensor:
        """New states [n, last, d] of the last positions of `hidden` [n, width, d].

        They are normed, also where they go round again: grown from run to run, they would take ever less notice
        of what reaches them late, such as a carry from far away (EXPERIMENTS.md).
        """
        for layer in self.layers[:-1]:
            hidden = layer(hidden, bias, hidden.shape[1], sharpness)
        if operate:
            hidden = operate(hidden)
        return self.norm(self.layers[-1](hidden, bias[:, :, -last:], last, sharpness))

    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.parameters())
