"""What a symbolic unit is used for: what it reads, how much it writes, and what is answered without it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.breakdown import exact_match_interval
from model.probing.examples import Batch, ids_of
from model.probing.truth import OPERATORS, Problem
from model.trained import TrainedEncoder
from model.unit_readings import operator_of, read_rightly, readings_of
from model.units import SymbolicUnit

SEVERAL = "several"


class UnitMeasure(NamedTuple):
    """A measure of a unit, of problems of one operator, or of several."""

    measure: str
    loop: int
    """Run of the block; 0 for what is told of the whole encoder."""
    operator: str
    problems: int
    value: float
    low: float
    high: float


def unit_measures(
    model: TrainedEncoder, problems: Sequence[Problem], batches: Sequence[Batch]
) -> Iterator[UnitMeasure]:
    """Shares of problems, with intervals over them, whose operation and operands are read in each loop, and which are
    answered rightly with the unit and without; and how large what it writes is beside the slots' states.

    Of problems of several operators or numbers nothing is told of what ought to be read. Nothing of an encoder without
    a unit.
    """
    unit = model.encoder.unit
    if unit is None:
        return
    kinds, shares = _kinds(problems), dict[tuple[str, int], NDArray[np.float64]]()
    for batch in batches:
        texts = [problems[number].text for number in batch.problems.tolist()]
        answers = np.array([model.tokenizer.slots(str(problems[n].value), batch.layout) for n in batch.problems])
        with readings_of(model.encoder) as readings, _written(unit) as written:
            found: dict[tuple[str, int], NDArray[Any]] = {("answered", 0): _right(model, batch, answers, unit=True)}
        found["answered without", 0] = _right(model, batch, answers, unit=False)
        for loop, (reading, size) in enumerate(zip(readings, written, strict=True), 1):
            operation, operands = read_rightly(reading, texts)
            found |= {("operation read", loop): operation, ("operands read", loop): operands, ("written", loop): size}
        for key, values in found.items():
            shares.setdefault(key, np.zeros(len(problems)))[batch.problems] = values
    for (measure, loop), values in shares.items():
        for kind in np.unique(kinds):
            mine = values[kinds == kind]
            if measure == "written":
                low, high = np.quantile(mine, [0.025, 0.975])
            elif kind == SEVERAL and measure.endswith("read"):
                continue
            else:
                (low, high), _, _ = exact_match_interval(mine > 0, np.arange(len(mine)))
            yield UnitMeasure(measure, loop, str(kind), len(mine), float(mine.mean()), float(low), float(high))


def _kinds(problems: Sequence[Problem]) -> NDArray[np.str_]:
    """The operator of each problem of two numbers; of others `SEVERAL`."""
    counts = [sum(problem.text.count(operator) for operator in OPERATORS) for problem in problems]
    return np.array([operator_of(each.text) if n == 1 else SEVERAL for each, n in zip(problems, counts, strict=True)])


def _right(model: TrainedEncoder, batch: Batch, answers: NDArray[np.integer], *, unit: bool) -> NDArray[np.bool_]:
    """Which problems of a batch are answered rightly in one pass, [n]."""
    with torch.inference_mode():
        logits = model.encoder(ids_of(model.encoder, batch.rows), batch.layout.answer, unit=unit)
    return (logits[:, -batch.layout.answer :].argmax(-1).cpu().numpy() == answers).all(1)


@contextmanager
def _written(unit: SymbolicUnit) -> Iterator[list[NDArray[np.float64]]]:
    """How large what a unit writes is beside the slots' states, [n] in each loop of the passes that are made inside."""
    found: list[NDArray[np.float64]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Any], output: Tensor) -> None:
        """Of one loop."""
        before, after = (states[:, -named["slots"] :].float() for states in (inputs[0], output))
        sizes = (after - before).norm(dim=(1, 2)) / before.norm(dim=(1, 2)).clamp(min=1e-12)
        found.append(sizes.double().cpu().numpy())

    handle = unit.register_forward_hook(keep, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()
