"""The encoder: reads a whole problem at once and gives logits for every answer slot in one pass.

Bidirectional Transformer layers ("Attention Is All You Need", section 3, encoder side), with
the norm before each sublayer. The block can be run several times with its input added anew
(looped, arXiv 2405.17399). Attention is written out: at these widths it beats the fused
kernels on a CPU severalfold (measured: plain 8.0 k rows/s, fused 2.0 k, bf16, two cores).
"""

import math

import torch
from torch import Tensor, nn

from model.config import EncoderConfig
from model.positions import Positions
from model.tokenizer import PAD, Tokenizer, TokenLayout


class SelfAttention(nn.Module):
    """Scaled dot-product attention with several heads."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = 1.0 / math.sqrt(config.width // config.heads)
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, hidden: Tensor, bias: Tensor, last: int) -> Tensor:
        """New states [n, last, d] of the last positions of `hidden` [n, width, d].

        `bias` [n, 1, 1, width] is added to the scores.
        """
        mixed = self.queries_keys_values(hidden).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = mixed.permute(2, 0, 3, 1, 4)
        scores = queries[:, :, -last:] @ keys.transpose(-1, -2) * self.scale + bias
        weighted = scores.softmax(-1).to(values.dtype) @ values
        return self.output(weighted.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and feed-forward, each on the normed state and added to it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.feedforward)
        self.contract = nn.Linear(config.feedforward, config.width)

    def forward(self, hidden: Tensor, bias: Tensor, last: int) -> Tensor:
        """New states [n, last, d] of the last positions of `hidden` [n, width, d]."""
        hidden = hidden[:, -last:] + self.attention(self.attention_norm(hidden), bias, last)
        return hidden + self.contract(torch.relu(self.expand(self.feedforward_norm(hidden))))


class Encoder(nn.Module):
    """Logits of the answer's slots from token ids; the answer is in nothing but the logits."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer, layout: TokenLayout) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        self.pad = tokenizer.id_of(PAD)
        self.positions = Positions(tokenizer, layout)
        self.tokens = nn.Embedding(tokenizer.size, config.width)
        self.places = nn.Embedding(config.places + 1, config.width)
        self.operands = nn.Embedding(config.operands + 1, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, tokenizer.size)

    def initialise(self, seed: int) -> None:
        """Draw all weights from `seed`: normal(0, 0.02) embeddings, and matrices at 1/√fan-in.

        Operand ids begin at zero, so that training begins with a function that treats all
        operands alike and tells them apart only as far as the problems ask for it. Drawn at
        random, they kept half of the trials on a plateau for 1,800 steps (EXPERIMENTS.md).
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.startswith("operands") or (weight.ndim == 1 and "norm" not in name):
                    weight.zero_()
                elif weight.ndim == 2:
                    spread = weight.shape[1] ** -0.5 if name.startswith(("layers", "head")) else 0.02
                    weight.copy_(torch.randn(weight.shape, generator=generator) * spread)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [n, slots, pieces] of token ids [n, width], uint8 or int64."""
        ids = ids.long()
        places, operands = self.positions(ids)
        embedded = self.tokens(ids) + self.places(places) + self.operands(operands)
        bias = torch.zeros(ids.shape, dtype=embedded.dtype, device=ids.device)
        bias = bias.masked_fill(ids == self.pad, -1e4)[:, None, None, :]
        hidden, depth = embedded, self.config.loops * len(self.layers)
        for number in range(depth):
            if number and number % len(self.layers) == 0:
                hidden = hidden + embedded
            # Nothing reads the problem's states behind the final layer, so it computes the slots' alone.
            last = self.layout.answer if number == depth - 1 else ids.shape[1]
            hidden = self.layers[number % len(self.layers)](hidden, bias, last)
        return self.head(self.norm(hidden))

    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.parameters())
