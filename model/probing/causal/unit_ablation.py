"""Measures the use of a symbolic unit: its readings, the size of its output, and the answers without it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from model.config.evaluation import Decoding
from model.evaluation.decoding import logits_of_slots
from model.evaluation.intervals import exact_match_interval
from model.evaluation.predictor import TrainedEncoder
from model.evaluation.unit_readout import correct_readings, operator_of, readings_of
from model.network.symbolic.unit import Result, SymbolicUnit
from model.probing.labels import OPERATORS, Problem
from model.probing.token_dataset import Batch, ids_of

SEVERAL = "several"


class UnitMeasure(NamedTuple):
    """A measure of a unit, for problems with one operator or with several."""

    measure: str
    loop: int
    """Run of the block; 0 for the last run of each problem, or for the whole encoder."""
    operator: str
    problems: int
    value: float
    low: float
    high: float


def unit_measures(
    model: TrainedEncoder, problems: Sequence[Problem], batches: Sequence[Batch]
) -> Iterator[UnitMeasure]:
    """Measures a unit's readings and output in each loop, and their effect; yields nothing without a unit.

    Shares of problems, with intervals over problems that differ in more than the order of their characters: operation
    or both operands read correctly; answered correctly with the unit, and without it; answered like another problem,
    whose answer has as many digits, if the unit receives its result. `written` is the mean size of the output, relative
    to the slots' states. Readings are not scored for problems with several operators.
    """
    unit = model.encoder.unit
    if unit is None:
        return
    kinds, orders = (
        _kinds(problems),
        np.unique(["".join(sorted(each.text)) for each in problems], return_inverse=True)[1],
    )
    shares: dict[tuple[str, int], NDArray[np.float64]] = {}
    for batch in batches:
        texts = [problems[number].text for number in batch.problems.tolist()]
        answers = np.array([model.tokenizer.slots(str(problems[n].value), batch.layout) for n in batch.problems])
        with readings_of(model.encoder) as readings, _written(unit) as written:
            predicted = _predicted(model, batch)
        found: dict[tuple[str, int], NDArray[Any]] = {("answered", 0): (predicted == answers).all(1)}
        found["answered without", 0] = (_predicted(model, batch, unit=False) == answers).all(1)
        other = others([problems[n].value for n in batch.problems], kinds[batch.problems] != SEVERAL)
        with exchanged(unit.result, other):
            as_other = (_predicted(model, batch) == answers[other]).all(1)
        found["answered as another", 0] = np.where((answers[other] != answers).any(1), as_other, np.nan)
        for loop, (reading, size) in enumerate(zip(readings, written, strict=True), 1):
            operation, operands = correct_readings(reading, texts)
            of_loop = {"operation read": operation, "operands read": operands, "written": size}
            for number in (loop, 0) if loop == len(readings) else (loop,):
                found |= {(measure, number): values for measure, values in of_loop.items()}
        for key, values in found.items():
            shares.setdefault(key, np.full(len(problems), np.nan))[batch.problems] = values
    for (measure, loop), values in shares.items():
        for kind in np.unique(kinds):
            # Some problems run the block in fewer loops than others.
            chosen = (kinds == kind) & ~np.isnan(values)
            if not chosen.any() or (kind == SEVERAL and measure.endswith("read")):
                continue
            if measure == "written":
                low, high = np.quantile(values[chosen], [0.025, 0.975])
            else:
                (low, high), _, _ = exact_match_interval(values[chosen] > 0, orders[chosen])
            mean = float(values[chosen].mean())
            yield UnitMeasure(measure, loop, str(kind), int(chosen.sum()), mean, float(low), float(high))


def _kinds(problems: Sequence[Problem]) -> NDArray[np.str_]:
    """The operator of each problem with one operator; `SEVERAL` for other problems."""
    counts = [sum(problem.text.count(operator) for operator in OPERATORS) for problem in problems]
    return np.array([operator_of(each.text) if n == 1 else SEVERAL for each, n in zip(problems, counts, strict=True)])


def _predicted(model: TrainedEncoder, batch: Batch, *, unit: bool = True) -> NDArray[np.int64]:
    """Predicted ids of the slots of a batch, in one pass, [n, slots]."""
    slots, decoding = batch.layout.answer, Decoding(unit="on" if unit else "off")
    with torch.inference_mode():
        logits = logits_of_slots(model.encoder, ids_of(model.encoder, batch.rows), slots, decoding)
    return logits.argmax(-1).cpu().numpy()


def others(values: Sequence[int], usable: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Index of another problem whose answer has as many digits, [n]; the unit does not predict leading blanks.

    It is the problem's own index if there is no other one, or if `usable` is False.
    """
    lengths = np.array([len(str(abs(value))) for value in values])
    found = np.arange(len(values))
    for length in set(lengths.tolist()):
        chosen = np.flatnonzero((lengths == length) & usable)
        found[chosen] = np.roll(chosen, -1)
    return found


def exchanged(result: Result, other: NDArray[np.intp]) -> RemovableHandle:
    """Replace a unit's result with that of problem `other` [n] of the batch, until the handle is removed."""
    return result.register_forward_hook(lambda module, inputs, output: output[torch.from_numpy(other)])


@contextmanager
def _written(unit: SymbolicUnit) -> Iterator[list[NDArray[np.float64]]]:
    """Collects the output size of a unit relative to the slots' states, [n] per loop, in this block's passes."""
    found: list[NDArray[np.float64]] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...], named: Mapping[str, Any], output: Tensor) -> None:
        before, after = (states[:, -named["inputs"].slots :].float() for states in (arguments[0], output))
        sizes = (after - before).norm(dim=(1, 2)) / before.norm(dim=(1, 2)).clamp(min=1e-12)
        found.append(sizes.double().cpu().numpy())

    with unit.register_forward_hook(keep, with_kwargs=True):
        yield found
