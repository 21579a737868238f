"""Answers expressions by rewriting: the encoder says what can be carried out and its value, until nothing is left.

This loop only cuts out marked spans, hands them to the encoder, copies its slots in, and stops. It has no arithmetic,
no precedence and no parser: everything that decides an answer is read from logits. A product takes one pass per digit
of its second factor. The loop drops the digit that was consumed, and copies the result into the register. A span that
is no operation, or an end that is no number, is an abstention with a reason.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.evaluation.decoding import answering
from model.network.rewriting.encoder import RewritingEncoder, StepLogits
from model.network.rewriting.rows import Operations, Units
from model.tokenizer import DIGITS, REGISTER, Tokenizer

_UNIT = re.compile(r"\d+|\D")
_NUMBER = re.compile(r"-?\d+")
_OPERATION = re.compile(r"-?\(-?\d+\)|--\d+|-?\d+[-+*]-?\d+")
_PRODUCT_STEP = re.compile(rf"(-?\d+\*-?)\d(\d+){REGISTER}\d+")

# Positions that the encoder processes in one call.
_MOST_POSITIONS = 1 << 14


class Result(NamedTuple):
    """What the encoder fills in for one operation in one pass."""

    digits: str
    negative: bool
    done: bool
    """Whether the operation needs no further pass."""
    confidence: float
    """Product of the probabilities of all digits, the sign and the end."""

    @property
    def text(self) -> str:
        """The signed number."""
        return f"-{self.digits}" if self.negative and self.digits != "0" else self.digits


class Step(NamedTuple):
    """One operation that the encoder marked and carried out."""

    begin: int
    """Index of the span's first character in its state."""
    span: str
    result: str
    confidence: float
    """Product of the probabilities of all digits, the sign and the end of every pass."""


@dataclass
class Trace:
    """How one expression was rewritten."""

    states: list[str]
    steps: list[list[Step]] = field(default_factory=list)
    """The operations that were carried out in each state; one list fewer than states, unless a span was refused."""
    confidence: float = 1.0
    answer: str = ""
    """The number at the end; empty if there is none."""
    reason: str = ""
    """Why there is no answer."""


@dataclass(frozen=True)
class Rewriter:
    """An encoder that rewrites, with its tokenizer and the precision in which it answers."""

    encoder: RewritingEncoder
    tokenizer: Tokenizer
    precision: torch.dtype

    def traces(self, problems: Sequence[str]) -> list[Trace]:
        """Rewrite every expression until nothing is marked; each state is an expression of the same value."""
        traces = [Trace([problem]) for problem in problems]
        active = traces
        with answering(self.encoder, self.precision):
            # No operation makes an expression longer, and each removes an operator or a bracket.
            for _ in range(max(map(len, problems), default=0)):
                active = self._rewritten(active) if active else []
        for trace in active:
            trace.reason = "the encoder marks operations without end"
        return traces

    def _rewritten(self, traces: list[Trace]) -> list[Trace]:
        """Carry out one pass over all states, and return the traces that go on."""
        marked = self._marked(traces)
        spans = [*dict.fromkeys(span for groups in marked for is_marked, span in groups if is_marked)]
        results = dict(zip(spans, self._carried_out(spans), strict=True))
        active = []
        for trace, groups in zip(traces, marked, strict=True):
            state = trace.states[-1]
            chosen = [span for is_marked, span in groups if is_marked]
            refused = next((span for span in chosen if isinstance(results[span], str)), None)
            if refused is not None:
                trace.reason = f"the encoder marks {refused} in {state}: {results[refused]}"
            elif chosen:
                begins = accumulate((len(span) for _, span in groups), initial=0)
                done = [(begin, results[span]) for begin, (mark, span) in zip(begins, groups, strict=False) if mark]
                steps = [step._replace(begin=begin) for begin, step in done if isinstance(step, Step)]
                trace.steps.append(steps)
                trace.confidence *= float(np.prod([step.confidence for step in steps]))
                following = iter(steps)
                trace.states.append("".join(next(following).result if mark else span for mark, span in groups))
                active.append(trace)
            elif _NUMBER.fullmatch(state):
                trace.answer = state
            else:
                trace.reason = f"the encoder marks nothing in {state}"
        return active

    def _marked(self, traces: list[Trace]) -> list[list[tuple[bool, str]]]:
        """The spans of each trace's last state, alternately marked and not; notes the confidence."""
        found: list[list[tuple[bool, str]]] = [[] for _ in traces]
        units = [_UNIT.findall(trace.states[-1]) for trace in traces]
        for rows in _batches([len(row) for row in units]):
            read = self.encoder.reader.units(self._ids([traces[row].states[-1] for row in rows]))
            logits = self.encoder.mark(read, self.encoder.config.mark_loops).float()
            marks, inside = (logits > 0).cpu().numpy(), read.inside.cpu().numpy()
            for row, mark, there, confidence in zip(rows, marks, inside, mark_confidence(read, logits), strict=True):
                traces[row].confidence *= float(confidence)
                groups = groupby(zip(mark[there].tolist(), units[row], strict=True), key=lambda pair: pair[0])
                found[row] = [(is_marked, "".join(unit for _, unit in group)) for is_marked, group in groups]
        return found

    def _carried_out(self, spans: list[str]) -> list[Step | str]:
        """The result of every span, or the reason why it has none."""
        found: list[Step | str] = ["which is no operation" for _ in spans]
        texts = {row: span for row, span in enumerate(spans) if _OPERATION.fullmatch(span)}
        texts = {row: f"{text}{REGISTER}0" if "*" in text else text for row, text in texts.items()}
        sure = dict.fromkeys(texts, 1.0)
        while texts:
            following: dict[int, str] = {}
            for row, result in self._filled(texts):
                sure[row] *= result.confidence
                step = _PRODUCT_STEP.fullmatch(texts[row])
                if result.done:
                    found[row] = Step(0, spans[row], result.text, sure[row])
                elif step:
                    following[row] = f"{step[1]}{step[2]}{REGISTER}{result.digits}"
                else:
                    found[row] = f"it asks for a further step after {texts[row]}"
            texts = following
        return found

    def _filled(self, texts: dict[int, str]) -> Iterator[tuple[int, Result]]:
        """One pass over operations: yields each row with its result."""
        rows, names = [*texts], [*texts.values()]
        for part in _batches([len(name) for name in names]):
            operations = self.encoder.reader.operations(self._ids([names[number] for number in part]))
            logits = self.encoder.logits(self.encoder.settled(operations))
            yield from zip((rows[number] for number in part), results_of(operations, logits), strict=True)

    def _ids(self, texts: list[str]) -> Tensor:
        device = next(self.encoder.parameters()).device
        return torch.from_numpy(self.tokenizer.right_aligned(texts).astype(np.int64)).to(device)


def mark_confidence(units: Units, logits: Tensor) -> Tensor:
    """Product of the probabilities of all marks of an expression, [n]."""
    return torch.where(units.inside, logits.abs().sigmoid().log(), 0.0).sum(1).exp()


def results_of(operations: Operations, logits: StepLogits) -> list[Result]:
    """The results that slots and hub give for n operations."""
    sure, digits = logits.digits.float().log_softmax(-1).max(-1)
    end_sure, ends = logits.ends.float().unflatten(-1, (2, 2)).log_softmax(-1).max(-1)
    total = torch.where(operations.inside, sure, 0.0).sum(1).add(end_sure.sum(1)).exp()
    rows = zip(digits, operations.inside, ends.tolist(), total.tolist(), strict=True)
    results = []
    for slots, inside, (negative, done), confidence in rows:
        text = "".join(DIGITS[digit] for digit in reversed(slots[inside].tolist())).lstrip("0") or "0"
        results.append(Result(text, bool(negative), bool(done), confidence))
    return results


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Indices of rows of similar length, few enough for one call."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[row] * len(batch) > _MOST_POSITIONS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
