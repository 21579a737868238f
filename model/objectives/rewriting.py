"""The objective of the encoder that rewrites: marks of expressions, and results of single operations.

Every step of a rewriting is taught (process supervision). A batch holds expressions with their marks or operations with
their results. The loss of an operation counts every loop with gradient, and each slot only from the loop on that can
know it (`column_chains`). Two auxiliary outputs, carries and digit products, are trained beside it.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from model.config.training import TrainingSpec
from model.network.rewriting.encoder import RewritingEncoder, StepLogits
from model.network.rewriting.rows import MULTIPLY, Operations, RowReader, Units
from model.objectives.column_chains import column_chains
from model.objectives.objective import Batch, Objective, per_token
from model.objectives.step_randomness import loops_of, warm_loops_of
from model.objectives.training_pass import Loops
from model.tokenizer import MARK, Tokenizer, holds_marks

# Loops before carries start to move: those that the consumed digit needs to reach all slots, and one to add. Each digit
# more that a step consumes needs one more.
_SUM_LOOPS, _PRODUCT_LOOPS = 4, 5
# Loops after which the product of two digits, and whether a step is the last one, can be known.
_DIGIT_PRODUCT_LOOPS, _DONE_LOOPS = 4, 4
# Weight of the auxiliary losses.
_AUXILIARY = 0.5
_IGNORED = -100


class Results(NamedTuple):
    """Results of n operations of up to W places; `_IGNORED` where nothing is scored."""

    digits: Tensor
    """Digits, units first, int64 [n, W]; zero above the leading digit."""
    negative: Tensor
    """1 for a negative result, int64 [n]."""
    done: Tensor
    """1 if the operation needs no further step, int64 [n]."""


class RewritingPass(nn.Module):
    """Computes the logits of a training step; its weights are the encoder's."""

    def __init__(self, encoder: RewritingEncoder, precision: torch.dtype) -> None:
        super().__init__()
        self.encoder, self.precision = encoder, precision

    def forward(self, read: Units | Operations, loops: Loops) -> Tensor | StepLogits:
        """Logits of marks [n, U], or of every loop with gradient, each with the loops as first dimension."""
        encoder = self.encoder
        device = next(encoder.parameters()).device
        with torch.autocast(device.type, self.precision, enabled=self.precision is not torch.float32):
            if isinstance(read, Units):
                return encoder.mark(read, encoder.config.mark_loops)
            state: Tensor | float = 0.0
            if loops.warm:
                with torch.no_grad():
                    state = encoder.after(read, loops.warm)
                # Otherwise autocast reuses the weights cast here, which have no gradient.
                torch.clear_autocast_cache()
            states = [found for _, found in zip(range(loops.trained), encoder.fill(read, state), strict=False)]
            return encoder.logits(read, torch.stack(states))


class RewritingObjective(Objective[RewritingEncoder]):
    """Computes the loss of a training step from complete rows."""

    def __init__(self, spec: TrainingSpec, tokenizer: Tokenizer) -> None:
        super().__init__(spec, tokenizer)
        self.reader = RowReader(tokenizer, spec.encoder.digits_per_step)
        self.mark_id, self.minus_id = tokenizer.id_of(MARK), tokenizer.id_of("-")
        self.open_id, self.close_id = tokenizer.id_of("("), tokenizer.id_of(")")

    def encoder(self) -> RewritingEncoder:
        return RewritingEncoder(self.spec.encoder, self.tokenizer)

    def training_pass(self, encoder: RewritingEncoder, precision: torch.dtype) -> RewritingPass:
        return RewritingPass(encoder, precision)

    def right(self, encoder: RewritingEncoder, ids: Tensor, slots: int) -> Tensor:
        """Which complete rows of token ids [n, width] have exactly the right marks, or the right result, bool [n]."""
        problem = ids[:, : -slots - 1]
        if holds_marks(ids.shape[1], slots):
            units = self.reader.units(problem)
            return self.right_marks(units, encoder.mark(units, encoder.config.mark_loops), ids, slots)
        operations = self.reader.operations(problem)
        return self.right_results(operations, encoder.logits(operations, encoder.settled(operations)), ids, slots)

    def right_marks(self, units: Units, logits: Tensor, ids: Tensor, slots: int) -> Tensor:
        """Which rows have exactly the right marks, bool [n]."""
        return ~(((logits > 0) != self.marked(units, ids, slots)) & units.inside).any(1)

    def right_results(self, operations: Operations, logits: StepLogits, ids: Tensor, slots: int) -> Tensor:
        """Which rows have the right digits, sign and end, bool [n]."""
        results = self.results(operations, ids, slots)
        found = Results(logits.digits.argmax(-1), logits.ends[:, :2].argmax(-1), logits.ends[:, 2:].argmax(-1))
        wrong = [(one != other) & (other != _IGNORED) for one, other in zip(found, results, strict=True)]
        return ~(wrong[0].any(1) | wrong[1] | wrong[2])

    def difficulty(self, ids: Tensor, slots: int) -> dict[str, Tensor]:
        """The depth of brackets in expressions; the largest column total, and the bound of carries, of operations."""
        problem = ids[:, : -slots - 1]
        if holds_marks(ids.shape[1], slots):
            opened = (problem == self.open_id).long() - (problem == self.close_id).long()
            return {"depth": opened.cumsum(1).amax(1)}
        operations = self.reader.operations(problem)
        columns = column_chains(operations, self.reader.digits_per_step)
        moves = torch.where(operations.inside, columns.chain_moves, 0).amax(1)
        # All digits of a difference of magnitudes need its sign.
        bound = torch.maximum(moves, columns.end_moves)
        return {"column_total": columns.totals.amax(1), "carry_bound": bound}

    def flops(self, batch: Batch) -> int:
        config, loops = self.spec.encoder, self.loops(batch.step)
        per_token = config.layers * 2 * config.width * (4 * config.width + 2 * config.feedforward)
        if batch.marks:
            units = self.reader.units(batch.problem).ids
            return 3 * config.mark_loops * units.numel() * per_token
        operations = self.reader.operations(batch.problem)
        return (3 * loops.trained + loops.warm) * operations.fields[:, 0].numel() * per_token

    def loops(self, step: int) -> Loops:
        """Runs of the layers in a step on operations."""
        seed, encoder = self.spec.seed, self.spec.encoder
        trained = loops_of(seed, step, encoder.min_loops, encoder.loops)
        return Loops(trained, warm_loops_of(seed, step, encoder.warm_loops))

    def loss(self, forward: nn.Module, batch: Batch) -> Tensor:
        loops = self.loops(batch.step)
        if batch.marks:
            units = self.reader.units(batch.problem)
            logits = forward(units, loops).float()
            marked = self.marked(units, batch.ids, batch.slots).float()
            losses = binary_cross_entropy_with_logits(logits, marked, reduction="none")
            return torch.where(units.inside, losses, 0.0).sum() * per_token(units.inside)
        operations = self.reader.operations(batch.problem)
        results = self.results(operations, batch.ids, batch.slots)
        return self._step_loss(forward(operations, loops), operations, results, loops)

    def marked(self, units: Units, ids: Tensor, slots: int) -> Tensor:
        """Which units are marked in complete rows [n, width] with `slots` slots, bool [n, U]."""
        return (ids[:, 1 - slots :].gather(1, units.tokens) == self.mark_id) & units.inside

    def results(self, operations: Operations, ids: Tensor, slots: int) -> Results:
        """The results in complete rows [n, width] with `slots` slots, as targets."""
        values = self.reader.values[ids[:, 1 - slots :]].flip(1)
        width = operations.fields.shape[2] - 2
        digits = torch.zeros(len(ids), width, dtype=torch.long, device=ids.device)
        digits[:, : min(width, slots - 1)] = values[:, :width]
        # The text of zero has no sign, whatever the encoder says.
        negative = torch.where(values.any(1), (ids[:, -slots] == self.minus_id).long(), _IGNORED)
        done = (operations.kind != MULTIPLY) | (operations.lengths[:, 1] <= self.reader.digits_per_step)
        return Results(torch.where(operations.inside, digits, _IGNORED), negative, done.long())

    def _step_loss(self, logits: StepLogits, operations: Operations, results: Results, loops: Loops) -> Tensor:
        times = operations.kind == MULTIPLY
        first = torch.where(times, _PRODUCT_LOOPS + self.reader.digits_per_step - 1, _SUM_LOOPS)
        columns = column_chains(operations, self.reader.digits_per_step)
        inside = results.digits != _IGNORED
        chains = torch.where(inside, columns.chains, _IGNORED)
        product = inside & times[:, None]
        early = torch.full_like(first, _DONE_LOOPS)
        known = torch.full_like(chains, _DIGIT_PRODUCT_LOOPS)
        place = first[:, None]
        main = [
            (logits.digits, results.digits, columns.digit_moves + place),
            (logits.ends[..., :2], results.negative, columns.end_moves + first),
            (logits.ends[..., 2:], results.done, early),
        ]
        auxiliary = [(logits.chains, chains, columns.chain_moves + place)]
        parts = logits.products.unflatten(-1, (-1, 2, 10))
        for number, products in enumerate(columns.products.unbind(2)):
            for half, values in enumerate((products % 10, products // 10)):
                auxiliary.append((parts[..., number, half, :], torch.where(product, values, _IGNORED), known))
        scores = [_scored(*each, loops) for each in main]
        scored = torch.stack([count for _, count in scores]).sum()
        total = sum(loss for loss, _ in scores) + _AUXILIARY * sum(_scored(*each, loops)[0] for each in auxiliary)
        return total * per_token(scored)


def _scored(logits: Tensor, targets: Tensor, since: Tensor, loops: Loops) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over loops and rows, and the number of scored outputs.

    `logits` [loops, …, classes] of the loops after the warm ones; a target […] counts from loop `since` […] on.
    """
    loop = loops.warm + 1 + torch.arange(len(logits), device=targets.device).view(-1, *[1] * targets.ndim)
    targets = torch.where(since <= loop, targets, _IGNORED)
    loss = cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=_IGNORED, reduction="sum")
    return loss, (targets != _IGNORED).sum()
