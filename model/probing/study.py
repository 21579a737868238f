"""Probes one run: computes all tables, stores them in the run's folder, and recomputes only outdated ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.config.probing import ProbingSpec
from model.evaluation.predictor import TrainedEncoder
from model.network.encoder import Encoder
from model.probing.attention import attended
from model.probing.causal.counterfactuals import carry_pairs, digit_pairs
from model.probing.causal.interventions import ablate_heads, move_digits, patch_carries
from model.probing.causal.unit_ablation import UnitMeasure, unit_measures
from model.probing.geometry import Table, means_by
from model.probing.hooks import EMBEDDED, State, spread, states_of
from model.probing.labels import Problem
from model.probing.probes import Split, readings
from model.probing.sampling import Drawn, draw
from model.probing.tables import DRAWS, Part, Rows, attention_rows, check_numbers, row_of, symbol_rows, symbol_tables
from model.probing.token_dataset import KINDS, Batch, Examples, batches_of, examples_of, states_at
from model.tokenizer import TokenLayout

# Labels that depend on the token's own or the next lower column, except for carries from further away.
_OWN_COLUMN, _LOWER_COLUMN = frozenset({"digit", "column sum", "running sum", "carry out"}), frozenset({"carry in"})
# One in this many columns is held out.
_NEW_COLUMNS_ONE_IN = 3
# Number of problems for attention and for the symbolic unit.
_ATTENDED = 600


@dataclass
class Study:
    """A trained encoder, its probing problems, and the results; expensive parts are computed once, on first use."""

    model: TrainedEncoder
    spec: ProbingSpec
    most_states: int = 0
    """Maximum number of inner states, evenly spaced; 0 for all."""

    def __post_init__(self) -> None:
        encoder = self.model.config.training.encoder
        check_numbers(self.model, "layer", self.spec.layers, encoder.layers)
        check_numbers(self.model, "loop", self.spec.loops, encoder.loops_of(self.model.config.extent.answer))
        self.model.encoder.eval()
        if self.spec.loops:
            # Shorter answers may take fewer loops than the longest.
            shortest = min(batch.layout.answer for batch in self.batches)
            check_numbers(self.model, "loop", self.spec.loops, encoder.loops_of(shortest))

    @classmethod
    def parts(cls) -> dict[str, Part]:
        """The parts of this study."""
        states = {"problems", "layers", "loops"}
        return {
            "geometry": Part(cls.geometry, states),
            "probes": Part(cls.probes, states),
            "attention": Part(cls.attention, {"problems"}),
            "unit": Part(cls.unit, {"problems"}),
            "interventions": Part(cls.interventions, {*states, "edited"}),
        }

    @cached_property
    def has_columns(self) -> bool:
        """Whether tokens have digit positions; for learned pieces, only embeddings are studied."""
        return self.model.config.group > 0

    @cached_property
    def drawn(self) -> Drawn:
        """The problems in text form; each seed of a training has different ones."""
        return draw(self.model.config, self.spec.problems, self.model.config.training.seed)

    @cached_property
    def problems(self) -> list[Problem]:
        """The training problems of the probes, followed by the held-out problems."""
        return [Problem(text, self.model.config.group) for text in (*self.drawn.train, *self.drawn.held_out)]

    @cached_property
    def batches(self) -> list[Batch]:
        """The problems as token rows."""
        return batches_of(self.model, self.problems)

    @cached_property
    def states(self) -> list[State]:
        """The states that are studied."""
        slots = min(batch.layout.answer for batch in self.batches)
        first, *inner = states_of(self.model.encoder, slots, self.spec.layers, self.spec.loops)
        return [first, *spread(inner, self.most_states or len(inner))]

    @cached_property
    def examples(self) -> list[Examples]:
        """The studied tokens of each kind."""
        return [each for kind in KINDS if len((each := examples_of(self.problems, self.batches, kind)).problem)]

    @cached_property
    def trained_states(self) -> list[dict[State, NDArray[np.float32]]]:
        """The states of `examples`."""
        return states_at(self.model.encoder, self.batches, self.examples, self.states)

    @cached_property
    def untrained_states(self) -> list[dict[State, NDArray[np.float32]]]:
        """The states of `examples` in an untrained encoder of the same architecture."""
        return states_at(untrained_like(self.model), self.batches, self.examples, self.states)

    def geometry(self) -> dict[str, Rows]:
        """Tables geometry, similarity and coordinates, for the embeddings and the mean states of digits."""
        found: dict[str, Rows] = {"geometry": [], "similarity": [], "coordinates": []}

        def add(
            kind: str, symbols: str, state: State, control: str, names: Sequence[str], tables: Sequence[Table]
        ) -> None:
            vectors = {"kind": kind, "symbols": symbols, **state._asdict(), "control": control}
            for name, rows in symbol_rows(vectors, names, tables, with_fits=symbols != "tokens").items():
                found[name] += rows

        others = [symbol_tables(untrained_like(self.model, seed), self.model.tokenizer) for seed in range(1, DRAWS + 1)]
        for symbols, (names, table) in symbol_tables(self.model.encoder, self.model.tokenizer).items():
            untrained = [other[symbols][1] for other in others]
            random = [np.random.default_rng(seed).standard_normal(table.shape) for seed in range(DRAWS)]
            for control, tables in (("trained", [table]), ("untrained", untrained), ("random", random)):
                add("embedding", symbols, EMBEDDED, control, names, tables)
        if self.has_columns:
            for control, hidden in (("trained", self.trained_states), ("untrained", self.untrained_states)):
                for each, states in zip(self.examples, hidden, strict=True):
                    for state, table in self.digit_means(each, states).items():
                        symbols = {10: "digits", 100: "numbers"}[len(table)]
                        add(each.kind, symbols, state, control, [str(number) for number in range(len(table))], [table])
        return found

    def digit_means(self, examples: Examples, states: Mapping[State, NDArray[np.float32]]) -> dict[State, Table]:
        """Mean state of each digit, or of each number 0–99 for two-digit tokens; only for states where all occur."""
        numbers = 10**self.model.config.group
        if numbers > 100 or "digit" not in examples.labels:
            return {}
        digits = examples.labels["digit"]
        tables = {state: means_by(values, digits, examples.group, numbers) for state, values in states.items()}
        return {state: table for state, (table, met) in tables.items() if met and np.abs(table).max() > 1e-9}

    def splits(self, examples: Examples) -> list[Split]:
        """Training and test sets of the probes.

        `numbers` tests held-out numbers. `lengths` tests numbers longer than those in training, without held-out ones;
        for operand tokens, the length of their own number counts. `columns` tests held-out combinations of digits in a
        column within held-out problems, because different numbers share the same few columns. For labels that depend on
        a carry, the column is the next lower one.
        """
        held_out = (np.arange(len(self.problems)) >= len(self.drawn.train))[examples.problem]
        lengths = np.array([problem.longest for problem in self.problems])
        cut = (lengths.min() + lengths.max()) // 2
        longest = lengths[examples.problem]
        lengths = examples.number_lengths(self.problems) if examples.kind == "operand" else longest
        found = [
            Split("numbers", ~held_out, held_out),
            Split("lengths", ~held_out & (longest <= cut), ~held_out & (lengths > cut)),
        ]
        for columns, labels in zip(examples.columns.T, (_OWN_COLUMN, _LOWER_COLUMN), strict=True):
            new = columns % _NEW_COLUMNS_ONE_IN == 0
            # An operand's digit does not depend on the other digits of its column.
            tested = labels - {"digit"} if examples.kind == "operand" else labels
            found.append(Split("columns", ~held_out & ~new & (columns >= 0), held_out & new & (columns >= 0), tested))
        return found

    @property
    def layout(self) -> TokenLayout:
        """The layout with the most problems, over all its batches."""
        counts = Counter[TokenLayout]()
        for batch in self.batches:
            counts[batch.layout] += len(batch.rows)
        return counts.most_common(1)[0][0]

    def probes(self) -> dict[str, Rows]:
        rows: Rows = []
        if self.has_columns:
            for each, hidden, plain in zip(self.examples, self.trained_states, self.untrained_states, strict=True):
                found = readings(each, self.splits(each), hidden, plain)
                rows += [{"position": each.kind, **row_of(reading)} for reading in found]
        return {"probes": rows}

    def attention(self) -> dict[str, Rows]:
        if not self.has_columns:
            return {"attention": []}
        problems = self.problems[:_ATTENDED]
        return {"attention": attention_rows(attended(self.model.encoder, problems, batches_of(self.model, problems)))}

    def unit(self) -> dict[str, Rows]:
        if not (unit := self.model.encoder.unit):
            return {"unit": []}
        problems = self.problems[:_ATTENDED]
        batches = batches_of(self.model, problems)
        untrained = replace(self.model, encoder=untrained_like(self.model))
        gate = float(unit.gate.detach().abs().mean())
        found = [
            *(("trained", measure) for measure in unit_measures(self.model, problems, batches)),
            *(("untrained", measure) for measure in unit_measures(untrained, problems, batches)),
            ("trained", UnitMeasure("gate", 0, "all", len(problems), gate, gate, gate)),
        ]
        return {"unit": [{"control": control, **row_of(measure)} for control, measure in found]}

    def interventions(self) -> dict[str, Rows]:
        if self.model.config.group != 1:
            return {"interventions": []}
        digits = digit_pairs(self.model, self.problems, self.layout).first(self.spec.edited)
        operand = next(each for each in self.examples if each.kind == "operand")
        tables = self.digit_means(operand, self.trained_states[self.examples.index(operand)])
        found = []
        if digits.count:
            _, table = symbol_tables(self.model.encoder, self.model.tokenizer)["digits"]
            found += [*move_digits(self.model, digits, {**tables, EMBEDDED: table})]
            found += [*ablate_heads(self.model, digits)]
        carries = carry_pairs(self.model, self.problems, self.layout).first(self.spec.edited)
        if carries.count:
            found += [*patch_carries(self.model, carries, self.states)]
        return {"interventions": [row_of(outcome) for outcome in found]}


def untrained_like(model: TrainedEncoder, seed: int = 1) -> Encoder:
    """An encoder of the same architecture with random initial weights."""
    encoder = Encoder(model.config.training.encoder, model.tokenizer)
    encoder.initialise(seed)
    return encoder.to(model.encoder.tokens.weight.device).eval()
