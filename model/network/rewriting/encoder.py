"""The encoder that rewrites: one set of weights marks what can be carried out, and carries out one operation.

Both kinds of rows pass through the same layers, over and over (loops). For an expression, every unit attends to the
units around it and gets a mark. For an operation, there is one slot per place. A slot attends to the digits of all
fields and to the slots at its own place and beside it, to the flags, and to one hub. The hub attends to all slots. So
information about the whole row, such as the digit that a product consumes, takes two loops, and a carry one per place.
Only slots and hub loop; the keys and values of digits and flags are computed once.

The sources are the looped Transformer (arXiv 2405.17399) and, for attention to a number of keys that grows, scores
that are scaled by its logarithm (arXiv 2501.19399).
"""

import math
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from model.config.encoder import EncoderConfig
from model.network.positions import MASKED_SCORE
from model.network.rewriting.banded import block_size, distance_scores, unseen_scores, windows
from model.network.rewriting.rows import BORDER, CONTENTS, FIELDS, FLAGS, OUTSIDE, Operations, RowReader, Units
from model.tokenizer import Tokenizer

# Distance of the places that a slot attends to. Larger ones can learn rules that only hold for the trained lengths.
_PLACE_REACH = 1

# Largest change of a settled, normalised state. One that learns of a carry changes by 2 to 5, rounding by up to 0.06.
_SETTLED = 0.6
# Loops between two checks of what has settled.
_LOOPS_AT_ONCE = 4

# Carries 0 to 2, and the comparisons of two numbers' low digits.
CARRIES = 3
LESS, EQUAL, GREATER = CARRIES, CARRIES + 1, CARRIES + 2
CHAINS = CARRIES + 3

_LOWER_BORDER, _SLOT, _UPPER_BORDER, _HUB, _SLOT_KINDS = range(5)


class States(NamedTuple):
    """States of the slots [n, E, d], borders included, and of the hub [n, d]."""

    slots: Tensor
    hub: Tensor


class StepLogits(NamedTuple):
    """Logits of one loop, of n operations of up to W places."""

    digits: Tensor
    """The result's digits, [n, W, 10], units first."""
    ends: Tensor
    """Whether the result is negative, and whether nothing is left to be done: two logits each, [n, 4]."""
    chains: Tensor
    """The carry into each place, or the comparison of all lower digits, [n, W, CHAINS]; only training uses it."""
    products: Tensor
    """Units and tens of the product of a's digit and the consumed digit, [n, W, 20]; only training uses it."""


class _Layer(nn.Module):
    """Attention and feed-forward sublayers; their norm is before each."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = 1.0 / math.sqrt(config.width // config.heads)
        self.attention_norm = nn.LayerNorm(config.width)
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.feedforward)
        self.contract = nn.Linear(config.feedforward, config.width)

    def keys_values(self, hidden: Tensor) -> Tensor:
        """Keys and values [..., 2 · d] of tokens [..., d] without queries."""
        width, mixed = hidden.shape[-1], self.queries_keys_values
        return linear(self.attention_norm(hidden), mixed.weight[width:], mixed.bias[width:])

    def queries(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled queries [..., d], and keys and values [..., 2 · d], of tokens [..., d]."""
        width = hidden.shape[-1]
        queries, others = self.queries_keys_values(self.attention_norm(hidden)).split([width, 2 * width], -1)
        return queries * self.scale, others

    def split(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [n, blocks, heads, k, d / heads] of [n, blocks, k, 2 · d]."""
        keys, values = keys_values.unflatten(-1, (2, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        return keys, values

    def blocks(self, queries: Tensor, size: int) -> Tensor:
        """Queries [n, blocks, heads, size, d / heads] of [n, length, d]."""
        return queries.unflatten(2, (self.heads, -1)).unflatten(1, (-1, size)).transpose(2, 3)

    def add(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The sublayers' result, from the attended values [..., d]."""
        hidden = hidden + self.output(attended)
        return hidden + self.contract(torch.relu(self.expand(self.feedforward_norm(hidden))))


class _Layers(nn.ModuleList):
    """The layers of a block."""

    def __iter__(self) -> Iterator[_Layer]:
        return super().__iter__()  # type: ignore[return-value]


def _with_rows(rows: Tensor, all_rows: Tensor, some: Tensor) -> Tensor:
    """All rows, with `some` of them replaced."""
    return all_rows.index_copy(0, rows, some.to(all_rows.dtype))


class _Static(NamedTuple):
    """What a layer reads of an operation in every loop; computed once."""

    keys: Tensor
    """Of digits and flags by block, [n, blocks, heads, d / heads, k]."""
    values: Tensor
    flags: tuple[Tensor, Tensor]
    """Keys and values of the flags, for the hub, [n, 1, heads, 3, d / heads]."""
    scores: Tensor
    """Added to the attention scores of the slots, [n, blocks, heads, size, keys]."""


class RewritingEncoder(nn.Module):
    """Marks the operations of an expression, and fills the slots of one operation."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.reader = RowReader(tokenizer)
        width, heads = config.width, config.heads
        self.contents = nn.Embedding(FIELDS * CONTENTS, width)
        self.flags = nn.Embedding(FLAGS, width)
        self.slots = nn.Embedding(_SLOT_KINDS, width)
        self.units = nn.Embedding(self.reader.unit_count, width)
        # Scores by kind of key (three fields, slots) and distance; of the flags and the hub; by distance of units.
        self.place_scores = nn.Parameter(torch.zeros(heads, FIELDS + 1, 2 * _PLACE_REACH + 1))
        self.wide_scores = nn.Parameter(torch.zeros(heads, FIELDS + 1))
        self.unit_scores = nn.Parameter(torch.zeros(heads, 2 * config.reach + 1))
        self.sharpness = nn.Parameter(torch.ones(heads))
        self.layers = _Layers(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.unit_norm = nn.LayerNorm(width)
        self.digit_head = nn.Linear(width, 10)
        self.end_head = nn.Linear(width, 4)
        self.mark_head = nn.Linear(width, 1)
        self.chain_head = nn.Linear(width, CHAINS)
        self.product_head = nn.Linear(width, 20)

    def initialise(self, seed: int) -> None:
        """Draw all weights from `seed`: normal(0, 0.3) embeddings, and matrices with standard deviation 1/√fan-in.

        Biases and scores are zero.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.endswith("_scores") or (weight.ndim == 1 and "norm" not in name and name != "sharpness"):
                    weight.zero_()
                elif weight.ndim == 2:
                    embedding = name.startswith(("contents", "flags", "slots", "units"))
                    spread = 0.3 if embedding else weight.shape[1] ** -0.5
                    weight.copy_(torch.randn(weight.shape, generator=generator) * spread)

    def mark(self, units: Units, loops: int) -> Tensor:
        """Logits [n, U] of units that belong to an operation that can be carried out now."""
        length = units.ids.shape[1]
        size = block_size(length)
        ids = pad(units.ids, (0, -length % size))
        embedded, inside = self.units(ids), ids > 0
        scores = distance_scores(self.unit_scores, size, ids.shape[1] // size)
        scores = scores + unseen_scores(inside, size, self.config.reach)
        state: Tensor | float = 0.0
        for _ in range(loops):
            hidden = state + embedded
            for layer in self.layers:
                queries, others = layer.queries(hidden)
                keys, values = layer.split(windows(others, size, self.config.reach))
                weights = (layer.blocks(queries, size) @ keys.transpose(-1, -2) + scores).softmax(-1)
                attended = (weights.to(values.dtype) @ values).transpose(2, 3).flatten(3).flatten(1, 2)
                hidden = layer.add(hidden, attended)
            state = self.unit_norm(hidden)
        return self.mark_head(state)[:, :length, 0]

    def fill(self, operations: Operations, states: States | None = None) -> Iterator[States]:
        """Yields the states after every loop, without end, from `states` on or from the beginning."""
        contents = operations.fields[:, 0]
        length = contents.shape[1]
        size = block_size(length)
        room = -length % size
        kinds = torch.where(contents == BORDER, _UPPER_BORDER, _SLOT)
        kinds[:, 0] = _LOWER_BORDER
        inside = pad(contents != OUTSIDE, (0, room))
        embedded = pad(self.slots(kinds), (0, 0, 0, room))
        static = [self._static(layer, operations, inside, size) for layer in self.layers]
        # Padding is no key of the hub. With more slots, scores must differ more for the same attention.
        unseen = torch.zeros(inside.shape, device=inside.device).masked_fill(~inside, MASKED_SCORE)
        unseen = pad(unseen, (0, 1 + FIELDS))[:, None, None]
        sharpness = self.sharpness[:, None, None] * inside.sum(1).float().log()[:, None, None, None]
        slots: Tensor | float = 0.0
        hub: Tensor | float = 0.0
        if states:
            slots, hub = pad(states.slots, (0, 0, 0, room)), states.hub[:, None]
        while True:
            center = (hub + self.slots.weight[_HUB]).expand(len(inside), 1, -1)
            hidden = torch.cat([slots + embedded, center], 1)
            for layer, fixed in zip(self.layers, static, strict=True):
                hidden = self._filled(layer, hidden, fixed, size, sharpness, unseen)
            hidden = self.norm(hidden)
            slots, hub = hidden[:, :-1], hidden[:, -1:]
            yield States(hidden[:, :length], hidden[:, -1])

    def after(self, operations: Operations, loops: int) -> States:
        """The states after a number of loops."""
        return next(islice(self.fill(operations), loops - 1, None))

    def settled(self, operations: Operations) -> States:
        """The states of every row after which no loop changes anything, or after twice as many loops as places.

        The loops go on for the rows that still change, such as those with a long carry.
        """
        rows = torch.arange(len(operations.places), device=operations.places.device)
        found: States | None = None
        states: States | None = None
        for _ in range(-(-2 * operations.fields.shape[2] // _LOOPS_AT_ONCE)):
            *_, before, states = islice(self.fill(operations, states), _LOOPS_AT_ONCE)
            found = states if found is None else States(*(map(partial(_with_rows, rows), found, states)))
            changed = torch.maximum(
                (states.slots - before.slots).abs().amax((1, 2)), (states.hub - before.hub).abs().amax(1)
            )
            open_rows = (changed > _SETTLED).nonzero()[:, 0]
            if not len(open_rows):
                break
            if len(open_rows) < len(rows):
                rows = rows[open_rows]
                operations = Operations(*(part[open_rows] for part in operations))
                states = States(*(part[open_rows] for part in states))
        assert found is not None
        return found

    def logits(self, states: States) -> StepLogits:
        """All logits of slots and hub."""
        places = states.slots[..., 1:-1, :]
        return StepLogits(
            self.digit_head(places), self.end_head(states.hub), self.chain_head(places), self.product_head(places)
        )

    def parameter_count(self) -> int:
        return sum(weight.numel() for weight in self.parameters())

    def _static(self, layer: _Layer, operations: Operations, inside: Tensor, size: int) -> _Static:
        """What a layer reads of operations; `inside` [n, length] marks places and borders, up to whole blocks."""
        offsets = CONTENTS * torch.arange(FIELDS, device=operations.fields.device)[:, None]
        room = inside.shape[1] - operations.fields.shape[2]
        digits = pad(self.contents(operations.fields + offsets), (0, 0, 0, room))
        flags = layer.keys_values(self.flags(operations.flags))[:, None]
        fields = [windows(layer.keys_values(digits[:, field]), size, _PLACE_REACH) for field in range(FIELDS)]
        blocks = fields[0].shape[1]
        keys, values = layer.split(torch.cat([*fields, flags.expand(-1, blocks, -1, -1)], 2))
        near = distance_scores(self.place_scores, size, blocks)
        wide = self.wide_scores[:, None].expand(-1, size, -1)
        scores = torch.cat([*near[:, :FIELDS].unbind(1), wide[..., :FIELDS], near[:, FIELDS], wide[..., FIELDS:]], -1)
        unseen = unseen_scores(inside, size, _PLACE_REACH)
        scores = scores + torch.cat([pad(unseen.repeat(1, 1, 1, 1, FIELDS), (0, FIELDS)), pad(unseen, (0, 1))], -1)
        return _Static(keys.transpose(-1, -2).contiguous(), values.contiguous(), layer.split(flags), scores)

    def _filled(
        self, layer: _Layer, hidden: Tensor, static: _Static, size: int, sharpness: Tensor, unseen: Tensor
    ) -> Tensor:
        """New states [n, length + 1, d] of all slots and, last, the hub."""
        queries, others = layer.queries(hidden)
        near = windows(others[:, :-1], size, _PLACE_REACH)
        near = torch.cat([near, others[:, None, -1:].expand(-1, near.shape[1], -1, -1)], 2)
        keys, values = layer.split(near)
        slots = layer.blocks(queries[:, :-1], size)
        scores = torch.cat([slots @ static.keys, slots @ keys.transpose(-1, -2)], -1) + static.scores
        weights = scores.softmax(-1).to(values.dtype)
        fixed = static.keys.shape[-1]
        attended = weights[..., :fixed] @ static.values + weights[..., fixed:] @ values
        keys, values = layer.split(others[:, None])
        hub = layer.blocks(queries[:, -1:], 1)
        flag_keys, flag_values = static.flags
        scores = torch.cat([hub @ keys.transpose(-1, -2), hub @ flag_keys.transpose(-1, -2)], -1)[:, 0]
        weights = (scores * sharpness + unseen).softmax(-1).to(values.dtype)
        slots_and_hub = keys.shape[3]
        summary = weights[..., :slots_and_hub] @ values[:, 0] + weights[..., slots_and_hub:] @ flag_values[:, 0]
        attended = torch.cat([attended.transpose(2, 3).flatten(3).flatten(1, 2), summary.transpose(1, 2).flatten(2)], 1)
        return layer.add(hidden, attended)
