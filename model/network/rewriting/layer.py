"""A layer of the encoder that rewrites, and its attention to tokens that never change (symbols)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from model.config.encoder import EncoderConfig


class SymbolMatrices(NamedTuple):
    """A layer's projections, extended by attention to V symbols.

    There are few different symbols, and they are the same for all rows. So their keys are multiplied with the
    projection of the queries beforehand, and their values with that of the output.
    """

    projection: Tensor
    """Gives scaled queries, keys, values and the scores of the symbols, [3 · d + heads · V, d]."""
    bias: Tensor
    values: Tensor
    """What the symbols add to the output, from their weights, [d, heads · V]."""


class Layer(nn.Module):
    """Attention and feed-forward sublayers; their norm is before each."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = 1.0 / math.sqrt(config.width // config.heads)
        self.attention_norm = nn.LayerNorm(config.width)
        # Attention weights pass through these, so that hooks can read them.
        self.weights, self.hub_weights = nn.Identity(), nn.Identity()
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.feedforward)
        self.contract = nn.Linear(config.feedforward, config.width)

    def projected(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled queries [..., d], and keys and values [..., 2 · d], of tokens [..., d]."""
        width = hidden.shape[-1]
        queries, others = self.queries_keys_values(self.attention_norm(hidden)).split([width, 2 * width], -1)
        return queries * self.scale, others

    def symbol_matrices(self, symbols: Tensor) -> SymbolMatrices:
        """The projections of this layer for V symbols [V, d], in the precision that autocast uses."""
        width, device = symbols.shape[-1], symbols.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else symbols.dtype
        weight, bias = self.queries_keys_values.weight, self.queries_keys_values.bias
        with torch.autocast(device, enabled=False):
            keys, values = linear(self.attention_norm(symbols), weight[width:], bias[width:]).split(width, -1)
            keys, values = (part.unflatten(-1, (self.heads, -1)) for part in (keys, values))
            query_weight, query_bias = weight[:width] * self.scale, bias[:width] * self.scale
            scores = torch.einsum("vhd,hdw->hvw", keys, query_weight.unflatten(0, (self.heads, -1))).flatten(0, 1)
            score_bias = torch.einsum("vhd,hd->hv", keys, query_bias.unflatten(0, (self.heads, -1))).flatten()
            output = torch.einsum("ohd,vhd->ohv", self.output.weight.unflatten(1, (self.heads, -1)), values).flatten(1)
            projection = torch.cat([query_weight, weight[width:], scores])
            return SymbolMatrices(
                projection.to(dtype), torch.cat([query_bias, bias[width:], score_bias]).to(dtype), output.to(dtype)
            )

    def split(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [n, blocks, heads, k, d / heads] of [n, blocks, k, 2 · d]."""
        keys, values = keys_values.unflatten(-1, (2, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        return keys, values

    def blocks(self, values: Tensor, size: int) -> Tensor:
        """Values [n, blocks, heads, size, c] of each head, from those of all heads [n, length, heads · c]."""
        return values.unflatten(2, (self.heads, -1)).unflatten(1, (-1, size)).transpose(2, 3)

    def joined(self, values: Tensor) -> Tensor:
        """The inverse of `blocks`."""
        return values.transpose(2, 3).flatten(3).flatten(1, 2)

    def fed_forward(self, hidden: Tensor) -> Tensor:
        """The result of the feed-forward sublayer, added to tokens [..., d]."""
        return hidden + self.contract(torch.relu(self.expand(self.feedforward_norm(hidden))))
