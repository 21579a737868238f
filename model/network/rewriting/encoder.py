"""The encoder that rewrites: one set of weights marks what can be carried out, and carries out one operation.

Both kinds of rows pass through the same layers, over and over (loops), unless `mark_layers` gives expressions their
own. For an expression, every unit attends to the units around it and gets a mark. For an operation, there is one slot
per place. A slot attends to the digits of all fields and to the slots at its own place and beside it (as far as a step
moves the register), to the flags, and to one hub. The hub attends to all slots. So information about the whole row,
such as the digit that a product consumes, takes two loops, and a carry one per place.

Only slots and hub loop. Digits and flags never change, and there are few different ones (symbols). So attention to them
is two matrices of the pass: the scores of all symbols from a slot's state, and what each symbol adds to it. What a slot
sees of a symbol, at which distance and how often, is a score that is added.

The sources are the looped Transformer (arXiv 2405.17399) and, for attention to a number of keys that grows, scores
that are scaled by its logarithm (arXiv 2501.19399).
"""

import math
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from model.config.encoder import EncoderConfig
from model.network.positions import MASKED_SCORE
from model.network.rewriting.banded import block_size, distance_scores, unseen_scores, windows
from model.network.rewriting.layer import Layer, SymbolMatrices
from model.network.rewriting.rows import BORDER, CONTENTS, FIELDS, FLAGS, OUTSIDE, Operations, RowReader, Units
from model.tokenizer import Tokenizer

# A row is settled if no normalised state changes by more than this, and if every output has at least this probability.
# A state that learns of a carry changes by 2 to 5. The change alone stops one of 40,000 small problems of one seed too
# early, with a probability of 0.54 (EXPERIMENTS.md).
_LARGEST_CHANGE, _LEAST_PROBABILITY = 1.0, 0.999
# Loops before the first check of what has settled: the consumed digit needs three to reach all slots.
_FIRST_CHECK = 4
# Settled rows leave the batch when they are at least one of so many.
_LEAVE_ONE_OF = 4

# Symbols: the contents of a field that slots attend to (digits, empty places and borders), and the flags after them.
_SEEN = OUTSIDE
_CONTENT_SYMBOLS = FIELDS * _SEEN
SYMBOLS = _CONTENT_SYMBOLS + FLAGS

# Carries 0 to 2, and the comparisons of two numbers' low digits. Each digit more that a step consumes allows two more
# carries, before the comparisons.
CARRIES = 3
LESS, EQUAL, GREATER = CARRIES, CARRIES + 1, CARRIES + 2
_CHAINS, _MORE_CARRIES = CARRIES + 3, 2

_LOWER_BORDER, _SLOT, _UPPER_BORDER, _HUB, _SLOT_KINDS = range(5)


class StepLogits(NamedTuple):
    """Logits of one loop, of n operations of up to W places."""

    digits: Tensor
    """The result's digits, [n, W, 10], units first."""
    ends: Tensor
    """Whether the result is negative, and whether nothing is left to be done: two logits each, [n, 4]."""
    chains: Tensor
    """The carry into each place, or the comparison of all lower digits, [n, W, chains]; only training uses it."""
    products: Tensor
    """Units and tens of the product of a's digit and each consumed digit, [n, W, 20·k]; only training uses it."""


def log_probabilities(digits: Tensor, ends: Tensor, inside: Tensor) -> Tensor:
    """Log-probabilities of the likeliest digits, sign and end of n results, [n, W + 2].

    `digits` [n, W, 10] and `ends` [n, 4] are logits as in `StepLogits`; `inside` is bool [n, W]. Zero stands outside,
    and for the sign of zero, which nobody reads and no training scores.
    """
    sure, values = digits.float().log_softmax(-1).max(-1)
    sign, end = ends.float().unflatten(-1, (2, 2)).log_softmax(-1).amax(-1).unbind(-1)
    sign = torch.where((values * inside).any(1), sign, 0.0)
    return torch.cat([torch.where(inside, sure, 0.0), sign[:, None], end[:, None]], 1)


class _Layers(nn.ModuleList):
    """The layers of a block."""

    def __iter__(self) -> Iterator[Layer]:
        return super().__iter__()  # type: ignore[return-value]


class _Fixed(NamedTuple):
    """What the loops read of n operations; L is the number of places with borders, up to whole blocks."""

    embedded: Tensor
    """Embeddings of slots and, last, the hub, [n, L + 1, d]."""
    inside: Tensor
    """Which slots are places or borders of their row; also the hub; bool [n, L + 1]."""
    scores: Tensor
    """Added to the scores of a slot's symbols, the slots beside it and the hub, [n, blocks, heads, size, keys]."""
    sharpness: Tensor
    """Factor of the hub's scores, [n, heads, 1, 1]."""
    hub_scores: Tensor
    """Added to the hub's scores of all slots, itself and the flags, [n, 1, 1, L + 1 + FLAGS]."""

    def of_rows(self, rows: Tensor) -> Self:
        return type(self)(*(part[rows] for part in self))


class RewritingEncoder(nn.Module):
    """Marks the operations of an expression, and fills the slots of one operation."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.reader = RowReader(tokenizer, config.digits_per_step)
        width, heads = config.width, config.heads
        # Distance of the places that a slot attends to: the register moves by so many places. Larger ones can learn
        # rules that only hold for the trained lengths.
        self.place_reach = config.digits_per_step
        self.contents = nn.Embedding(FIELDS * CONTENTS, width)
        self.flags = nn.Embedding(FLAGS, width)
        # Steps consume whole groups of digits, so slots have their place in a group.
        self.slots = nn.Embedding(_SLOT_KINDS + config.digits_per_step - 1, width)
        self.units = nn.Embedding(self.reader.unit_count, width)
        # Scores by kind of key (three fields, slots) and distance; of the flags and the hub; by distance of units.
        self.place_scores = nn.Parameter(torch.zeros(heads, FIELDS + 1, 2 * self.place_reach + 1))
        self.wide_scores = nn.Parameter(torch.zeros(heads, FIELDS + 1))
        self.unit_scores = nn.Parameter(torch.zeros(heads, 2 * config.reach + 1))
        self.sharpness = nn.Parameter(torch.ones(heads))
        # The field of each flag: the sign of a, the kind of operation, the sign of b.
        self.flag_fields = nn.Buffer(torch.tensor([0, 0, 1, 1, 1, 1, 2, 2]), persistent=False)
        self.layers = _Layers(Layer(config) for _ in range(config.layers))
        own = config.mark_layers == "own"
        self.mark_layers = _Layers(Layer(config) for _ in range(config.layers)) if own else None
        self.norm = nn.LayerNorm(width)
        self.unit_norm = nn.LayerNorm(width)
        self.digit_head = nn.Linear(width, 10)
        self.end_head = nn.Linear(width, 4)
        self.mark_head = nn.Linear(width, 1)
        self.chain_head = nn.Linear(width, _CHAINS + _MORE_CARRIES * (config.digits_per_step - 1))
        self.product_head = nn.Linear(width, 20 * config.digits_per_step)

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

    @property
    def marking_layers(self) -> "_Layers":
        """The layers of expressions; by default those of operations."""
        return self.layers if self.mark_layers is None else self.mark_layers

    def mark(self, units: Units, loops: int) -> Tensor:
        """Logits [n, U] of units that belong to an operation that can be carried out now."""
        return self.mark_logits(units, next(islice(self.marking(units), loops - 1, None)))

    def mark_logits(self, units: Units, states: Tensor) -> Tensor:
        """Logits [n, U] of `mark` from the states that `marking` yields."""
        return self.mark_head(states)[:, : units.ids.shape[1], 0]

    def marking(self, units: Units, states: Tensor | float = 0.0) -> Iterator[Tensor]:
        """Yields the states [n, U, d], padded to whole blocks, after every loop, without end, from `states` on."""
        size = block_size(units.ids.shape[1])
        ids = pad(units.ids, (0, -units.ids.shape[1] % size))
        embedded = self.units(ids)
        scores = distance_scores(self.unit_scores, size, ids.shape[1] // size)
        scores = scores + unseen_scores(ids > 0, size, self.config.reach)
        while True:
            hidden = states + embedded
            for layer in self.marking_layers:
                queries, others = layer.projected(hidden)
                keys, values = layer.split(windows(others, size, self.config.reach))
                weights = (layer.blocks(queries, size) @ keys.transpose(-1, -2) + scores).softmax(-1)
                attended = layer.joined(layer.weights(weights.to(values.dtype)) @ values)
                hidden = layer.fed_forward(hidden + layer.output(attended))
            after: Tensor = self.unit_norm(hidden)
            yield after
            states = after

    def fill(self, operations: Operations, states: Tensor | float = 0.0) -> Generator[Tensor, Tensor | None, None]:
        """Yields the states after every loop, without end, from `states` on or from the beginning.

        States [n, L + 1, d] are those of all places with borders, up to whole blocks, and of the hub as the last.
        States that are sent take the place of those that were yielded.
        """
        fixed, symbols = self._fixed(operations), self._symbols()
        while True:
            found = self._loop(fixed, symbols, states)
            sent = yield found
            states = found if sent is None else sent

    def after(self, operations: Operations, loops: int) -> Tensor:
        """The states after a number of loops."""
        return next(islice(self.fill(operations), loops - 1, None))

    def settled(self, operations: Operations) -> Tensor:
        """The states of every row after which no loop changes anything, or after twice as many loops as places.

        The loops go on for the rows that still change, such as those with a long carry.
        """
        fixed, symbols = self._fixed(operations), self._symbols()
        rows = torch.arange(len(operations.places), device=operations.places.device)
        inside = operations.inside
        state: Tensor | float = 0.0
        found: Tensor | None = None
        last = 2 * operations.fields.shape[2]
        for loop in range(1, last + 1):
            before, state = state, self._loop(fixed, symbols, state)
            if found is None:
                found = state
            if loop < _FIRST_CHECK:
                continue
            changes = (state - before).abs().amax(2).masked_fill(~fixed.inside, 0).amax(1)
            settled = (changes <= _LARGEST_CHANGE) & self._certain(state, inside)
            open_rows = (~settled).nonzero()[:, 0]
            if len(rows) - len(open_rows) >= len(rows) / _LEAVE_ONE_OF or loop == last:
                found = found.index_copy(0, rows, state)
                if not len(open_rows):
                    break
                rows, state, inside = rows[open_rows], state[open_rows], inside[open_rows]
                fixed = fixed.of_rows(open_rows)
        assert found is not None
        return found

    def logits(self, operations: Operations, states: Tensor) -> StepLogits:
        """All logits of states [..., n, L + 1, d], such as those of several loops."""
        heads = (self.digit_head, self.chain_head, self.product_head)
        weight, bias = torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])
        # One product for all heads and all states: the inputs are larger than the outputs, and would be copied.
        last = operations.fields.shape[2] - 1
        sizes = [head.out_features for head in heads]
        digits, chains, products = linear(states, weight, bias)[..., 1:last, :].split(sizes, -1)
        return StepLogits(digits, self.end_head(states[..., -1, :]), chains, products)

    def parameter_count(self) -> int:
        return sum(weight.numel() for weight in self.parameters())

    def _certain(self, state: Tensor, inside: Tensor) -> Tensor:
        """Which rows have a clear digit in every place, sign and end, bool [n]; `inside` is bool [n, W]."""
        digits = self.digit_head(state[:, 1 : 1 + inside.shape[1]])
        return log_probabilities(digits, self.end_head(state[:, -1]), inside).amin(1) >= math.log(_LEAST_PROBABILITY)

    def _symbols(self) -> list[SymbolMatrices]:
        """The matrices of every layer for attention to the contents of fields and to flags."""
        contents = self.contents.weight.unflatten(0, (FIELDS, CONTENTS))[:, :_SEEN].flatten(0, 1)
        symbols = torch.cat([contents, self.flags.weight])
        return [layer.symbol_matrices(symbols) for layer in self.layers]

    def _fixed(self, operations: Operations) -> _Fixed:
        """What the loops read of operations."""
        contents = operations.fields[:, 0]
        size = block_size(contents.shape[1])
        room = -contents.shape[1] % size
        place = (torch.arange(contents.shape[1], device=contents.device) - 1) % self.config.digits_per_step
        slots = torch.where(place == 0, _SLOT, _SLOT_KINDS - 1 + place)
        kinds = torch.where(contents == BORDER, _UPPER_BORDER, slots)
        kinds[:, 0] = _LOWER_BORDER
        hub = self.slots.weight[_HUB].expand(len(kinds), 1, -1)
        embedded = torch.cat([pad(self.slots(kinds), (0, 0, 0, room)), hub], 1)
        inside = pad(contents != OUTSIDE, (0, room))
        flags = (operations.flags[..., None] == torch.arange(FLAGS, device=contents.device)).any(1)
        # Padding is no key of the hub. With more slots, scores must differ more for the same attention.
        seen = torch.cat([pad(inside, (0, 1), value=True), flags], 1)
        hub_scores = torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, MASKED_SCORE)
        sharpness = self.sharpness * inside.sum(1, keepdim=True).float().log()
        return _Fixed(
            embedded,
            pad(inside, (0, 1), value=True),
            self._slot_scores(operations, flags, inside, size),
            sharpness[..., None, None],
            hub_scores[:, None, None],
        )

    def _slot_scores(self, operations: Operations, flags: Tensor, inside: Tensor, size: int) -> Tensor:
        """Scores of what each slot sees, [n, blocks, heads, size, keys]: symbols, slots beside it, and the hub.

        A symbol that a slot sees at several distances has the sum of their weights. `flags` is bool [n, FLAGS].
        """
        rows, length = inside.shape
        room = length - operations.fields.shape[2]
        contents = operations.fields[..., None] == torch.arange(_SEEN, device=inside.device)
        contents = pad(contents, (0, 0, self.place_reach, self.place_reach + room))[:, None]
        strengths = self.place_scores[:, :FIELDS].exp()
        counts = torch.zeros((), device=inside.device)
        for distance in range(2 * self.place_reach + 1):
            seen = contents[:, :, :, distance : distance + length]
            # [n, heads, fields, length, contents]
            counts = counts + strengths[:, :, distance, None, None] * seen
        # Scores of −88 instead would make denormal weights, which are slow.
        symbols = counts.clamp_min(torch.finfo(torch.float32).tiny).log().masked_fill(counts == 0, MASKED_SCORE)
        symbols = symbols.transpose(2, 3).flatten(3)
        wide = self.wide_scores[:, self.flag_fields].where(flags[:, None], MASKED_SCORE)
        symbols = torch.cat([symbols, wide[:, :, None].expand(-1, -1, length, -1)], 3)
        symbols = symbols.unflatten(2, (-1, size)).transpose(1, 2)
        near = distance_scores(self.place_scores[:, FIELDS], size, length // size)
        near = near + unseen_scores(inside, size, self.place_reach)
        hub = self.wide_scores[:, FIELDS, None, None].expand(rows, length // size, -1, size, -1)
        return torch.cat([symbols, near, hub], -1)

    def _loop(self, fixed: _Fixed, symbols: Sequence[SymbolMatrices], state: Tensor | float) -> Tensor:
        """New states [n, L + 1, d] of all slots and, last, the hub, from those before; 0 at the beginning."""
        hidden = fixed.embedded + state
        for layer, matrices in zip(self.layers, symbols, strict=True):
            hidden = self._filled(layer, matrices, hidden, fixed)
        return self.norm(hidden)

    def _filled(self, layer: Layer, matrices: SymbolMatrices, hidden: Tensor, fixed: _Fixed) -> Tensor:
        """The result of a layer, [n, L + 1, d]."""
        width, size = hidden.shape[-1], fixed.scores.shape[3]
        mixed = linear(layer.attention_norm(hidden), matrices.projection, matrices.bias)
        queries, others, symbols = mixed.split([width, 2 * width, mixed.shape[-1] - 3 * width], -1)
        near = windows(others[:, :-1], size, self.place_reach)
        near = torch.cat([near, others[:, None, -1:].expand(-1, near.shape[1], -1, -1)], 2)
        keys, values = layer.split(near)
        scores = layer.blocks(queries[:, :-1], size) @ keys.transpose(-1, -2)
        weights = (torch.cat([layer.blocks(symbols[:, :-1], size), scores], -1) + fixed.scores).softmax(-1)
        weights = layer.weights(weights.to(values.dtype))
        symbol_weights = layer.joined(weights[..., :SYMBOLS])
        attended = layer.joined(weights[..., SYMBOLS:] @ values)
        keys, values = layer.split(others[:, None])
        scores = layer.blocks(queries[:, -1:], 1) @ keys.transpose(-1, -2)
        flags = layer.blocks(symbols[:, -1:], 1)[..., _CONTENT_SYMBOLS:]
        weights = (torch.cat([scores, flags], -1)[:, 0] * fixed.sharpness + fixed.hub_scores).softmax(-1)
        weights = layer.hub_weights(weights[:, None].to(values.dtype))
        hub_symbols = layer.joined(pad(weights[..., keys.shape[3] :], (_CONTENT_SYMBOLS, 0)))
        summary = layer.joined(weights[..., : keys.shape[3]] @ values)
        attended = layer.output(torch.cat([attended, summary], 1))
        return layer.fed_forward(
            hidden + attended + linear(torch.cat([symbol_weights, hub_symbols], 1), matrices.values)
        )
