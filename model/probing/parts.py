"""The parts of a study: tables that are computed together, and the parameters that they depend on."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from model.config.probing import PROBING_VERSION, ProbingSpec
from model.evaluation.predictor import TrainedModel
from model.probing.hooks import MOST_LOOPS
from model.probing.tables import Rows
from storage.datasets.manifest import hash_of
from storage.errors import UserError

# Number of untrained and of random tables, over which controls are averaged.
DRAWS = 8


class Part(NamedTuple):
    """Tables that are computed together."""

    make: Callable[[Any], dict[str, Rows]]
    """Computes the tables from a study."""
    options: set[str]
    """Fields of `ProbingSpec` that the tables depend on."""


def check_numbers(model: TrainedModel, name: str, requested: Sequence[int], last: int) -> None:
    """Raise `UserError` for a layer or loop that the encoder does not have."""
    for number in requested:
        if not 1 <= number <= last:
            raise UserError(
                f"{name} {number} does not exist: run {model.config.name!r} has {name}s 1 to {last} "
                "(embeddings are always probed); remove it"
            )


def key_of(model: TrainedModel, spec: ProbingSpec, part: Part) -> str:
    """Cache key of a part's tables: a hash of the weights, the relevant parameters and the probing version."""
    options = spec.model_dump(mode="json", include=part.options)
    encoder = model.config.training.encoder
    for name, last in (("layers", encoder.layers), ("loops", encoder.loops_of(model.config.extent.answer))):
        if name in options:
            # Naming all layers or loops equals naming none, unless there are more loops than are studied by default.
            named = sorted(set(options[name]))
            all_named = named == [*range(1, last + 1)] and (name == "layers" or last <= MOST_LOOPS)
            options[name] = [] if all_named else named
    return hash_of([PROBING_VERSION, model.checkpoint.sha256, options])
