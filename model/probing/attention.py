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
        roles, offsets, scored = _roles_and_offsets(problems, batch)
        roles, offsets = roles[scored], offsets[scored]
        counts = np.stack([(roles == role).sum(1) for role in range(len(ROLES))], 1)
        counts[:, ROLES.index("padding")] = 0
        even += (counts / counts.sum(1, keepdims=True)).sum(0)
        counted += len(roles)
        with attention_recorded(encoder) as recorded_weights:
            logits_of(encoder, ids_of(encoder, batch.rows), batch.layout.answer)
        for state, weights in recorded_weights:
            for head in range(weights.shape[1]):
                # Selects the slots' rows, because all tokens are queries here.
                own = weights[:, head].float().cpu().numpy()[:, -batch.layout.answer :][scored]
                both = [np.where(roles == role, own, 0).sum() for role in range(len(ROLES))]
                both += [np.where(offsets == offset, own, 0).sum() for offset in range(-REACH, REACH + 1)]
                sums[state, head] = sums.get((state, head), 0.0) + np.array(both)
    for (state, head), total in sums.items():
        mean = total / counted
        yield Attended(state, head, mean[: len(ROLES)], mean[len(ROLES) :], even / counted)


def _roles_and_offsets(
    problems: Sequence[Problem], batch: Batch
) -> tuple[NDArray[np.int8], NDArray[np.int64], NDArray[np.bool_]]:
    """The role and the offset of each token for each slot, and which slots hold a digit.

    Both arrays are [n, slots, width], and the last one is [n, slots]. The offset is the place value of an operand's
    token minus that of the slot, clipped to ±REACH, and 2 · REACH for other tokens.
    """
    slots, width = batch.layout.answer, batch.layout.width
    roles = np.full((len(batch.rows), slots, width), ROLES.index("padding"), np.int8)
    offsets = np.full(roles.shape, 2 * REACH)
    scored = np.zeros((len(batch.rows), slots), np.bool_)
    slot_places = np.arange(slots - 1, -1, -1)
    for row, number in enumerate(batch.problems.tolist()):
        problem = problems[number]
        for column, token in enumerate(problem.tokens, batch.layout.problem - len(problem.tokens)):
            roles[row, :, column] = ROLES.index("bracket" if token.text in "()" else "operator")
            if token.number >= 0:
                offsets[row, :, column] = np.clip(token.place - slot_places, -REACH, REACH)
        scored[row, slots - problem.answer_length :] = True
    roles[offsets <= REACH] = ROLES.index("other columns")
    roles[offsets == 0] = ROLES.index("same column")
    roles[offsets == -1] = ROLES.index("next lower column")
    roles[:, :, batch.layout.problem] = ROLES.index("equals")
    roles[:, :, -slots:] = ROLES.index("other slots")
    for slot in range(slots):
        roles[:, slot, batch.layout.problem + 1 + slot] = ROLES.index("its own slot")
        if slot + 1 < slots:
            roles[:, slot, batch.layout.problem + 2 + slot] = ROLES.index("next lower slot")
    return roles, offsets, scored
