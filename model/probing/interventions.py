"""What a model uses: a digit moved, a carry brought over from another problem, a head taken away.

Each edit has an outcome that is known beforehand, by exact arithmetic; what else changes is counted too, and so is
what a random change of the same size does (`twins`).
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.evaluation.intervals import exact_match_interval
from model.evaluation.predictor import TrainedEncoder
from model.probing.counterfactuals import CarryTwins, Twins
from model.probing.geometry import Table, fitted
from model.probing.hooks import EMBEDDED, Edit, State, attentions_of, edited, logits_of, recorded, replayed
from model.probing.token_dataset import ids_of, orders_of
from model.tokenizer import PAD, TokenLayout

DIGIT_WAYS = ("digit", "circles", "circle", "rest", "rest as far", "random")


class Outcome(NamedTuple):
    """What an edit came to."""

    experiment: Literal["digit", "carry", "head"]
    state: State
    site: str
    way: str
    """What was done; 'rest', 'random' and 'same carry' are controls."""
    shift: int
    """By how much a digit was moved; 0 where all are counted together."""
    problems: int
    predicted: float
    """Share of the problems that are answered as the edit predicts."""
    low: float
    high: float
    unchanged: float
    """Share that are answered as before."""
    other: float
    """Share with any other answer."""
    spilt: float
    """Share of the slots that the edit ought not to touch which it changed."""
    copied: float | None = None
    """Of a carry: share of the problems whose slot is answered as the other problem's is."""


def move_digits(model: TrainedEncoder, twins: Twins, tables: dict[State, Table], seed: int = 0) -> Iterator[Outcome]:
    """Move digits in each state that a table of digits [10, d] is known of.

    By the whole difference of two digits' rows, by that on their circles of periods 10 and 5 or of period 10 alone, and
    as controls by all but that on the circle of period 10, by as much of it as is as long, and in a random direction
    among the digits' own, as far.
    """
    chance, passes = np.random.default_rng(seed), _Passes(model, twins)
    for state, table in tables.items():
        circles = {"circles": ["circle 10", "circle 5"], "circle": ["circle 10"]}
        ways = {"digit": table, **{way: fitted(table, names) for way, names in circles.items()}}
        moves = {way: values[twins.new] - values[twins.old] for way, values in ways.items()}
        moves["rest"] = moves["digit"] - moves["circle"]
        # Among the digits' own directions, where the encoder looks for them.
        span = np.linalg.svd(table - table.mean(0), full_matrices=False)[2][:9]
        drawn = chance.standard_normal((twins.count, len(span))) @ span
        for way, move in (("rest as far", moves["rest"]), ("random", drawn)):
            length = np.linalg.norm(move, axis=1, keepdims=True)
            moves[way] = move * np.linalg.norm(moves["circle"], axis=1, keepdims=True) / np.maximum(length, 1e-12)
        for way in DIGIT_WAYS:
            added = torch.zeros(*twins.rows.shape, table.shape[1])
            added[torch.arange(twins.count), torch.from_numpy(twins.column)] = torch.from_numpy(moves[way]).float()
            said = passes.edited(state, _adding(added))
            shifts = (twins.new - twins.old) % 10
            for shift in range(10):
                chosen = shifts == shift if shift else np.ones(twins.count, np.bool_)
                if chosen.any():
                    yield _outcome("digit", state, "operand", way, shift, twins, said, chosen)


def patch_carries(model: TrainedEncoder, twins: CarryTwins, states: Sequence[State]) -> Iterator[Outcome]:
    """Put the states of a problem that carries one more, and has another digit in the column above, into the run of one
    that doesn't, at single sites; as a control those of one that differs from it in that carry alone.

    Predicted is the answer with the carry. Where the slot says the other problem's digit instead, that digit was
    handed over, and no carry.

    Where the block runs more than once also in every loop together (but of the slot itself in the last one): a looped
    encoder computes anew what a single edit changed.
    """
    last, passes = model.encoder.config.loops_of(twins.layout.answer), _Passes(model, twins)
    layers = sorted({state.layer for state in states if state != EMBEDDED})
    every = [State(loop, layer) for loop in range(1, last + 1) for layer in layers]
    kept = [*states, *(every if last > 1 else [])]
    sources = {
        way: _states(model, rows, twins.layout, kept)
        for way, rows in (("carry", twins.donor), ("same carry", twins.same))
    }
    slot = twins.column - (twins.layout.width - twins.layout.answer)
    own = twins.column[:, None]
    sites = {"lower digits": twins.lower, "lower slot": own + 1, "own slot": own}
    for state in [*states, *(State(0, layer) for layer in layers if last > 1)]:
        for site, columns in sites.items():
            if state == EMBEDDED and site != "lower digits":
                # Masked slots all have the same embedding.
                continue
            until = last - 1 if site == "own slot" and not state.loop else last
            for (way, source), copied in zip(sources.items(), twins.copied.T, strict=True):
                said = passes.edited(state, _putting(source, state.layer, columns, until))
                found = _outcome("carry", state, site, way, 0, twins, said, np.ones(twins.count, np.bool_))
                yield found._replace(copied=float((said[np.arange(twins.count), slot] == copied).mean()))


def ablate_heads(model: TrainedEncoder, twins: Twins, layers: Sequence[int] = (), seed: int = 0) -> Iterator[Outcome]:
    """Replace what each head says, in every loop, by its mean over problems and tokens, without padding; as a control a
    random subspace of the same size. Predicted is that nothing changes. Of some layers, or of all."""
    shown = ids_of(model.encoder, twins.rows) != model.tokenizer.id_of(PAD)
    chance, passes = torch.Generator().manual_seed(seed), _Passes(model, twins)
    for number, attention in enumerate(attentions_of(model.encoder), 1):
        if layers and number not in layers:
            continue
        heads = attention.heads
        width = model.encoder.config.width
        basis = torch.linalg.qr(torch.randn(width, width // heads, generator=chance))[0]
        subspaces = {
            f"head {head}": torch.eye(width)[:, head * width // heads :][:, : width // heads] for head in range(heads)
        }
        for site, subspace in {**subspaces, "random subspace": basis}.items():
            with without(attention.output, subspace.to(model.encoder.tokens.weight.device), shown):
                said = passes.behind(State(1, number - 1))
            right = (said == twins.before).all(1)
            (low, high), _, _ = exact_match_interval(right, orders_of(twins.rows))
            way = "random" if site == "random subspace" else "ablated"
            share = float(right.mean())
            spilt = float((said != twins.before).mean())
            yield Outcome(
                "head", State(0, number), site, way, 0, twins.count, share, low, high, share, 1 - share, spilt
            )


class _Passes:
    """What the encoder fills the slots of twins' problems with, [n, slots], in passes with an edit; what lies before
    the edit is computed once."""

    def __init__(self, model: TrainedEncoder, twins: Twins) -> None:
        self.encoder, self.slots = model.encoder, twins.layout.answer
        self.ids = ids_of(model.encoder, twins.rows)
        loops, layers = model.encoder.config.loops_of(self.slots), len(model.encoder.layers)
        every = [State(loop, layer) for loop in range(1, loops + 1) for layer in range(1, layers + 1)]
        with recorded(model.encoder, every) as self.seen:
            logits_of(model.encoder, self.ids, self.slots)

    def edited(self, state: State, edit: Edit) -> NDArray[np.int64]:
        """With an edit of a state."""
        with edited(self.encoder, state, edit):
            return self.behind(state if state.loop else State(1, state.layer) if state.layer else EMBEDDED)

    def behind(self, state: State) -> NDArray[np.int64]:
        """Computed anew behind a state."""
        with replayed(self.encoder, self.seen, state):
            logits = logits_of(self.encoder, self.ids, self.slots)
        return logits.argmax(-1).cpu().numpy()


def _states(
    model: TrainedEncoder, rows: NDArray[np.integer], layout: TokenLayout, states: Sequence[State]
) -> dict[State, Tensor]:
    """States [n, width, d] of a pass; for the embeddings those of the tokens alone, as `edited` changes them."""
    ids = ids_of(model.encoder, rows)
    with recorded(model.encoder, states) as seen:
        logits_of(model.encoder, ids, layout.answer)
    with torch.inference_mode():
        return {**seen, EMBEDDED: model.encoder.tokens(ids)}


def _adding(added: Tensor) -> Edit:
    return lambda hidden, loop: hidden + added.to(hidden)


def _putting(source: dict[State, Tensor], layer: int, columns: NDArray[np.intp], until: int) -> Edit:
    """Takes a layer's states of some columns [n, k] from another run, up to a loop."""

    def edit(hidden: Tensor, loop: int) -> Tensor:
        """All others stay."""
        if loop > until:
            return hidden
        at = torch.from_numpy(columns).to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1])
        return hidden.scatter(1, at, source[State(loop, layer)].to(hidden).gather(1, at))

    return edit


def without(output: nn.Module, subspace: Tensor, shown: Tensor) -> "_Hooked":
    """Replace what goes into `output` along a subspace [d, k] by its mean over the tokens `shown`, bool [n, width]."""

    def before(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The heads' words, [n, width, d]."""
        part = arguments[0] @ subspace @ subspace.T
        return (arguments[0] - part + part[shown].mean(0), *arguments[1:])

    return _Hooked(output.register_forward_pre_hook(before))


class _Hooked:
    def __init__(self, handle: torch.utils.hooks.RemovableHandle) -> None:
        self._handle = handle

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def _outcome(
    experiment: Literal["digit", "carry"], state: State, site: str, way: str, shift: int, twins: Twins,
    said: NDArray[np.int64], chosen: NDArray[np.bool_],
) -> Outcome:  # fmt: skip
    """How the answers said compare with those before the edit and those predicted."""
    before, after, said = twins.before[chosen], twins.after[chosen], said[chosen]
    predicted, unchanged = (said == after).all(1), (said == before).all(1)
    (low, high), _, _ = exact_match_interval(predicted, orders_of(twins.rows[chosen]))
    alike = before == after
    spilt = float((said != before)[alike].mean()) if alike.any() else 0.0
    return Outcome(
        experiment, state, site, way, shift, len(said), float(predicted.mean()), low, high,
        float(unchanged.mean()), float((~predicted & ~unchanged).mean()), spilt,
    )  # fmt: skip
