"""Attention from the slots of answer digits, by the role of the attended token and by difference of place values."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.network.encoder import Encoder
from model.probing.hooks import State, attention_recorded, logits_of
from model.probing.labels import Problem
from model.probing.token_dataset import Batch, ids_of

ROLES = (
    *("same column", "next lower column", "other columns", "operator", "bracket"),
    *("equals", "its own slot", "next lower slot", "other slots", "padding"),
)
# Larger differences of place values are clipped to this one.
REACH = 3


class Attended(NamedTuple):
    """Mean attention weights of a head, over all slots of answer digits."""

    state: State
    head: int
    roles: NDArray[np.float64]
    """Total weight of the tokens of each role, [roles]."""
    offsets: NDArray[np.float64]
    """Weight of operand digits by their place value minus the slot's, -REACH … REACH, [2 · REACH + 1]."""
    even: NDArray[np.float64]
    """Weight of each role under uniform attention to all tokens except padding, which is masked, [roles]."""


def attended(encoder: Encoder, problems: Sequence[Problem], batches: Sequence[Batch]) -> Iterator[Attended]:
    """Yields the mean attention of every layer, loop and head, from the slots of answer digits."""
    sums: dict[tuple[State, int], NDArray[np.float64]] = {}
    counted = 0
    even: NDArray[np.float64] = np.zeros(len(ROLES))
    for batch in batches:
        parts, scored = _parts(problems, batch)
        spread = parts[scored]
        counts = np.stack([(spread == role).sum(1) for role in range(len(ROLES))], 1)
        counts[:, ROLES.index("padding")] = 0
        even += (counts / counts.sum(1, keepdims=True)).sum(0)
        counted += len(spread)
        offsets = _offsets(problems, batch)[scored]
        with attention_recorded(encoder) as seen:
            logits_of(encoder, ids_of(encoder, batch.rows), batch.layout.answer)
        for state, weights in seen:
            for head in range(weights.shape[1]):
                # Selects the slots' rows, because all tokens are queries here.
                own = weights[:, head].float().cpu().numpy()[:, -batch.layout.answer :][scored]
                both = [np.where(spread == role, own, 0).sum() for role in range(len(ROLES))]
                both += [np.where(offsets == offset, own, 0).sum() for offset in range(-REACH, REACH + 1)]
                sums[state, head] = sums.get((state, head), 0.0) + np.array(both)
    for (state, head), total in sums.items():
        mean = total / counted
        yield Attended(state, head, mean[: len(ROLES)], mean[len(ROLES) :], even / counted)


def _parts(problems: Sequence[Problem], batch: Batch) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """The role of each token for each slot, [n, slots, width], and which slots hold a digit, [n, slots]."""
    slots, width = batch.layout.answer, batch.layout.width
    parts = np.full((len(batch.rows), slots, width), ROLES.index("padding"), np.int8)
    scored = np.zeros((len(batch.rows), slots), np.bool_)
    own = np.arange(slots - 1, -1, -1)
    for row, number in enumerate(batch.problems.tolist()):
        tokens = problems[number].tokens
        for column, token in enumerate(tokens, batch.layout.problem - len(tokens)):
            parts[row, :, column] = ROLES.index("bracket" if token.text in "()" else "operator")
            if token.number >= 0:
                parts[row, :, column] = ROLES.index("other columns")
                parts[row, own == token.place, column] = ROLES.index("same column")
                parts[row, own - 1 == token.place, column] = ROLES.index("next lower column")
        digits = -(-len(str(abs(problems[number].value))) // problems[number].group)
        scored[row, slots - digits :] = True
    parts[:, :, batch.layout.problem] = ROLES.index("equals")
    parts[:, :, -slots:] = ROLES.index("other slots")
    for slot in range(slots):
        parts[:, slot, batch.layout.problem + 1 + slot] = ROLES.index("its own slot")
        if slot + 1 < slots:
            parts[:, slot, batch.layout.problem + 2 + slot] = ROLES.index("next lower slot")
    return parts, scored


def _offsets(problems: Sequence[Problem], batch: Batch) -> NDArray[np.int64]:
    """Place value of each operand token minus the slot's, clipped to ±REACH, [n, slots, width]; 2 · REACH otherwise."""
    own = np.arange(batch.layout.answer - 1, -1, -1)
    found = np.full((len(batch.rows), batch.layout.answer, batch.layout.width), 2 * REACH)
    for row, number in enumerate(batch.problems.tolist()):
        tokens = problems[number].tokens
        for column, token in enumerate(tokens, batch.layout.problem - len(tokens)):
            if token.number >= 0:
                found[row, :, column] = np.clip(token.place - own, -REACH, REACH)
    return found
