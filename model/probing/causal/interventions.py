"""Causal interventions on hidden states: changed digits, patched carries and ablated heads.

Exact arithmetic gives the expected outcome of each edit (`counterfactuals`). Side effects and control edits, such as
random changes of the same size, are measured too.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from model.evaluation.intervals import exact_match_interval
from model.evaluation.predictor import TrainedEncoder
from model.probing.causal.counterfactuals import CarryPairs, Pairs
from model.probing.geometry import Table, fitted
from model.probing.hooks import EMBEDDED, Edit, State, attentions_of, edited, logits_of, recorded, replayed, states_of
from model.probing.token_dataset import ids_of, orders_of
from model.tokenizer import PAD, TokenLayout

# The last three are of an encoder that rewrites.
Experiment = Literal["digit", "carry", "head", "consumed digit", "carry between places", "precedence"]


class Outcome(NamedTuple):
    """Result of an edit."""

    experiment: Experiment
    state: State
    site: str
    way: str
    """Kind of edit; 'rest', 'rest as far', 'random', and 'same' carry, digit or operator are controls."""
    shift: int
    """Shift of the digit modulo 10; 0 for all shifts together, and for other experiments."""
    problems: int
    predicted: float
    """Share of the problems with the answer that the edit predicts."""
    low: float
    high: float
    unchanged: float
    """Share of the problems with the same answer as before."""
    other: float
    """Share of the problems with any other answer."""
    spilt: float
    """Share of slots that changed, among those that the edit should not change."""
    copied: float | None = None
    """For carries: share of the problems whose slot has the source problem's digit."""


def move_digits(model: TrainedEncoder, pairs: Pairs, tables: dict[State, Table]) -> Iterator[Outcome]:
    """Change digits in each state that has a table of digits [10, d] in `tables`.

    The edits add the whole difference of two digits' rows (`digit`), or its part on the circles of periods 10 and 5
    (`circles`) or of period 10 (`circle`). Controls: the difference without its part on the circle of period 10
    (`rest`), the same scaled to the length of `circle` (`rest as far`), and a random direction in the span of the
    digits with this length (`random`).
    """
    chance, passes = np.random.default_rng(0), _Passes(model, pairs)
    for state, table in tables.items():
        tables_of_ways = (table, fitted(table, ["circle 10", "circle 5"]), fitted(table, ["circle 10"]))
        digit, circles, circle = (values[pairs.new] - values[pairs.old] for values in tables_of_ways)
        # Random directions in the span of the digits, which the encoder reads.
        span = np.linalg.svd(table - table.mean(0), full_matrices=False)[2][:9]
        random = chance.standard_normal((pairs.count, len(span))) @ span
        moves = {"digit": digit, "circles": circles, "circle": circle, "rest": digit - circle}
        length = np.linalg.norm(circle, axis=1, keepdims=True)
        for way, move in (("rest as far", moves["rest"]), ("random", random)):
            moves[way] = move * length / np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-12)
        for way, move in moves.items():
            added = torch.zeros(*pairs.rows.shape, table.shape[1])
            added[torch.arange(pairs.count), torch.from_numpy(pairs.column)] = torch.from_numpy(move).float()
            predicted = passes.edited(state, _shift(added))
            shifts = (pairs.new - pairs.old) % 10
            for shift in range(10):
                chosen = shifts == shift if shift else np.ones(pairs.count, np.bool_)
                if chosen.any():
                    yield Outcome("digit", state, "operand", way, shift, *_scores(pairs, predicted, chosen))


def patch_carries(model: TrainedEncoder, pairs: CarryPairs, states: Sequence[State]) -> Iterator[Outcome]:
    """Patch states of a problem with one more carry into the run of a problem without it, at single sites.

    The source also has another digit in the next higher column. The control source, `same carry`, has the same digits
    there, but the carry of the edited problem. The predicted answer is the one with the carry. If the slot has the
    source problem's digit instead, the patch copied the digit and not the carry.

    For several loops, the states are also patched in all loops together (except the slot itself in the last loop),
    because a looped encoder recomputes what a single edit changed.
    """
    last, passes = model.encoder.config.loops_of(pairs.layout.answer), _Passes(model, pairs)
    layers = sorted({state.layer for state in states if state != EMBEDDED})
    every = [State(loop, layer) for loop in range(1, last + 1) for layer in layers]
    kept = [*states, *(every if last > 1 else [])]
    sources = {
        way: _states(model, rows, pairs.layout, kept)
        for way, rows in (("carry", pairs.donor), ("same carry", pairs.same))
    }
    slot = pairs.column - (pairs.layout.width - pairs.layout.answer)
    own = pairs.column[:, None]
    sites = {"lower digits": pairs.lower, "lower slot": own + 1, "own slot": own}
    for state in [*states, *(State(0, layer) for layer in layers if last > 1)]:
        for site, columns in sites.items():
            if state == EMBEDDED and site != "lower digits":
                # All masked slots have the same embedding.
                continue
            until = last - 1 if site == "own slot" and not state.loop else last
            for (way, source), copied in zip(sources.items(), pairs.copied.T, strict=True):
                predicted = passes.edited(state, _patch(source, state.layer, columns, until))
                scores = _scores(pairs, predicted, np.ones(pairs.count, np.bool_))
                share = float((predicted[np.arange(pairs.count), slot] == copied).mean())
                yield Outcome("carry", state, site, way, 0, *scores, copied=share)


def ablate_heads(model: TrainedEncoder, pairs: Pairs, layers: Sequence[int] = ()) -> Iterator[Outcome]:
    """Replace each head's output, in every loop, with its mean over problems and tokens, without padding.

    The control replaces a random subspace of the same size. The predicted outcome is an unchanged answer. Empty
    `layers` selects all layers.
    """
    shown = ids_of(model.encoder, pairs.rows) != model.tokenizer.id_of(PAD)
    chance, passes = torch.Generator().manual_seed(0), _Passes(model, pairs)
    for number, attention in enumerate(attentions_of(model.encoder), 1):
        if layers and number not in layers:
            continue
        width, size = model.encoder.config.width, model.encoder.config.width // attention.heads
        subspaces = {f"head {head}": part for head, part in enumerate(torch.eye(width).split(size, 1))}
        subspaces["random subspace"] = torch.linalg.qr(torch.randn(width, size, generator=chance))[0]
        for site, subspace in subspaces.items():
            with ablated(attention.output, subspace.to(model.encoder.tokens.weight.device), shown):
                predicted = passes.after(State(1, number - 1))
            right = (predicted == pairs.before).all(1)
            (low, high), _, _ = exact_match_interval(right, orders_of(pairs.rows))
            way = "random" if site == "random subspace" else "ablated"
            share = float(right.mean())
            spilt = float((predicted != pairs.before).mean())
            yield Outcome(
                "head", State(0, number), site, way, 0, pairs.count, share, low, high, share, 1 - share, spilt
            )


class _Passes:
    """Predicts the slots [n, slots] of the pairs' first problems with an edit; states before it are computed once."""

    def __init__(self, model: TrainedEncoder, pairs: Pairs) -> None:
        self.encoder, self.slots = model.encoder, pairs.layout.answer
        self.ids = ids_of(model.encoder, pairs.rows)
        loops = range(1, model.encoder.config.loops_of(self.slots) + 1)
        with recorded(model.encoder, states_of(model.encoder, self.slots, loops=loops)) as self.hidden:
            logits_of(model.encoder, self.ids, self.slots)

    def edited(self, state: State, edit: Edit) -> NDArray[np.int64]:
        with edited(self.encoder, state, edit):
            return self.after(state if state.loop else State(1, state.layer) if state.layer else EMBEDDED)

    def after(self, state: State) -> NDArray[np.int64]:
        """Predictions with all states after `state` recomputed."""
        with replayed(self.encoder, self.hidden, state):
            logits = logits_of(self.encoder, self.ids, self.slots)
        return logits.argmax(-1).cpu().numpy()


def _states(
    model: TrainedEncoder, rows: NDArray[np.integer], layout: TokenLayout, states: Sequence[State]
) -> dict[State, Tensor]:
    """States [n, width, d] of a pass; `EMBEDDED` holds token embeddings without positions, which `edited` changes."""
    ids = ids_of(model.encoder, rows)
    with recorded(model.encoder, states) as hidden:
        logits_of(model.encoder, ids, layout.answer)
    with torch.inference_mode():
        return {**hidden, EMBEDDED: model.encoder.tokens(ids)}


def _shift(added: Tensor) -> Edit:
    return lambda hidden, loop: hidden + added.to(hidden)


def _patch(source: dict[State, Tensor], layer: int, columns: NDArray[np.intp], until: int) -> Edit:
    """Edit that replaces a layer's states at `columns` [n, k] with those of another run, up to the loop `until`."""

    def edit(hidden: Tensor, loop: int) -> Tensor:
        if loop > until:
            return hidden
        at = torch.from_numpy(columns).to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1])
        return hidden.scatter(1, at, source[State(loop, layer)].to(hidden).gather(1, at))

    return edit


def ablated(output: nn.Module, subspace: Tensor, shown: Tensor) -> RemovableHandle:
    """Replace the input of `output` along a subspace [d, k] with its mean over the tokens `shown`, bool [n, width]."""

    def before(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # The outputs of all heads, [n, width, d].
        part = arguments[0] @ subspace @ subspace.T
        return (arguments[0] - part + part[shown].mean(0), *arguments[1:])

    return output.register_forward_pre_hook(before)


def _scores(
    pairs: Pairs, predicted: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> tuple[int, float, float, float, float, float, float]:
    """The fields of `Outcome` from `problems` to `spilt`: chosen pairs, with their predicted slots [n, slots]."""
    before, after, predicted = pairs.before[chosen], pairs.after[chosen], predicted[chosen]
    as_expected, unchanged = (predicted == after).all(1), (predicted == before).all(1)
    (low, high), _, _ = exact_match_interval(as_expected, orders_of(pairs.rows[chosen]))
    alike = before == after
    spilt = float((predicted != before)[alike].mean()) if alike.any() else 0.0
    other = ~as_expected & ~unchanged
    shares = float(as_expected.mean()), low, high, float(unchanged.mean()), float(other.mean())
    return len(as_expected), *shares, spilt
