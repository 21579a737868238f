"""Probes one run whose encoder rewrites: labels of places, attention of slots, hub and operators, and causal edits."""

import random
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from model.config.probing import ProbingSpec
from model.evaluation.predictor import TrainedRewriter
from model.network.rewriting.encoder import RewritingEncoder
from model.probing.geometry import Table
from model.probing.hooks import EMBEDDED, MOST_LOOPS, State, spread
from model.probing.probes import Split, readings
from model.probing.rewriting.edits import carried, consumed_digit, precedence
from model.probing.rewriting.operations import drawn_operations, examples_of_places, number
from model.probing.rewriting.reads import hub_reads, operator_reads, slot_reads
from model.probing.tables import DRAWS, Part, Rows, check_numbers, row_of, symbol_rows
from model.probing.token_dataset import Examples
from model.tokenizer import DIGITS
from storage.errors import UserError

# Digits of the operations that probes are fitted on, and of the longer ones that test them too.
_DIGITS, _LONGER = range(1, 9), range(12, 17)
# Operations and expressions for attention.
_ATTENDED = 600


@dataclass
class RewritingStudy:
    """A trained encoder that rewrites, its probing operations, and the results."""

    model: TrainedRewriter
    spec: ProbingSpec

    def __post_init__(self) -> None:
        encoder = self.model.config.training.encoder
        if encoder.digits_per_step > 1:
            raise UserError(
                f"run {self.model.config.name!r} has encoder.digits_per_step {encoder.digits_per_step}, and probes "
                "read one digit: probe a run with 1"
            )
        check_numbers(self.model, "layer", self.spec.layers, encoder.layers)
        check_numbers(self.model, "loop", self.spec.loops, encoder.loops)
        self.model.encoder.eval()

    @classmethod
    def parts(cls) -> dict[str, Part]:
        """The parts of this study."""
        return {
            "geometry": Part(cls.geometry, set()),
            "probes": Part(cls.probes, {"problems", "layers", "loops"}),
            "attention": Part(cls.attention, {"problems"}),
            "interventions": Part(cls.interventions, {"edited"}),
        }

    @property
    def seed(self) -> int:
        return self.model.config.training.seed

    @cached_property
    def texts(self) -> list[str]:
        """The operations that probes are fitted on, those that test them, and longer ones that test them."""
        third = self.spec.problems // 3
        near = drawn_operations(self.spec.problems + third, _DIGITS, self.seed)
        return [*near, *drawn_operations(third, _LONGER, self.seed)]

    @cached_property
    def examples(self) -> Examples:
        """At most two places of each operation, with their labels."""
        return examples_of_places(self.texts, self.model.operations(self.texts))

    def splits(self) -> list[Split]:
        """Other operations than those that a probe was fitted on, and longer ones."""
        problem, fitted = self.examples.problem, self.spec.problems
        train, longer = problem < fitted, problem >= fitted + self.spec.problems // 3
        return [Split("numbers", train, ~train & ~longer), Split("lengths", train, longer)]

    def geometry(self) -> dict[str, Rows]:
        """Tables geometry, similarity and coordinates of the embeddings of the first operand's digits."""
        found: dict[str, Rows] = {"geometry": [], "similarity": [], "coordinates": []}
        table = _digits(self.model.encoder)
        tables = {
            "trained": [table],
            "untrained": [_digits(self._untrained(seed)) for seed in range(1, DRAWS + 1)],
            "random": [np.random.default_rng(seed).standard_normal(table.shape) for seed in range(DRAWS)],
        }
        for control, each in tables.items():
            vectors = {"kind": "embedding", "symbols": "digits", **EMBEDDED._asdict(), "control": control}
            for name, rows in symbol_rows(vectors, [*DIGITS], each).items():
                found[name] += rows
        return found

    def probes(self) -> dict[str, Rows]:
        trained, untrained = (self.states(encoder) for encoder in (self.model.encoder, self._untrained()))
        found = readings(self.examples, self.splits(), trained, untrained)
        return {"probes": [{"position": self.examples.kind, **row_of(reading)} for reading in found]}

    def states(self, encoder: RewritingEncoder) -> dict[State, NDArray[np.float32]]:
        """States of the studied places after each loop, float32 [m, d]."""
        last, layers = encoder.config.loops, encoder.config.layers
        loops = sorted(self.spec.loops) or spread(range(1, last + 1), MOST_LOOPS)
        at = torch.from_numpy(self.examples.problem), torch.from_numpy(self.examples.column)
        with torch.inference_mode():
            every = islice(encoder.fill(self.model.operations(self.texts)), last)
            return {
                State(loop, layers): states.cpu()[at].float().numpy()
                for loop, states in enumerate(every, 1)
                if loop in loops
            }

    def attention(self) -> dict[str, Rows]:
        encoder, loops = self.model.encoder, self.model.encoder.config.loops
        operations = self.model.operations(self.texts[:_ATTENDED])
        found = [*hub_reads(encoder, operations, loops), *slot_reads(encoder, operations, loops)]
        draw = random.Random(self.seed)
        for operator in "+*":
            texts = [f"{number(draw, 4)}+{number(draw, 4)}{operator}{number(draw, 4)}" for _ in range(_ATTENDED)]
            # The first number and the begin are before the plus.
            reads = operator_reads(encoder, self.model.units(texts), [2] * len(texts))
            found += [read._replace(role=f"a plus before {operator}") for read in reads]
        return {"attention": [row_of(read) for read in found]}

    def interventions(self) -> dict[str, Rows]:
        edits = (consumed_digit, carried, precedence)
        outcomes = [outcome for edit in edits for outcome in edit(self.model, self.spec.edited, self.seed)]
        return {"interventions": [row_of(outcome) for outcome in outcomes]}

    def _untrained(self, seed: int = 1) -> RewritingEncoder:
        """An encoder of the same architecture with random initial weights."""
        encoder = RewritingEncoder(self.model.config.training.encoder, self.model.tokenizer)
        encoder.initialise(seed)
        return encoder.to(self.model.encoder.digit_head.weight.device).eval()


def _digits(encoder: RewritingEncoder) -> Table:
    """Embeddings of the digits of the first operand, [10, d]."""
    return encoder.contents.weight[: len(DIGITS)].detach().double().cpu().numpy()
