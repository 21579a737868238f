"""Answers expressions by rewriting: the encoder says what can be carried out and its value, until nothing is left.

This loop only cuts out marked spans, hands them to the encoder, copies its slots in, and stops. It has no arithmetic,
no precedence and no parser: everything that decides an answer is read from logits. A product takes one pass per digit
of its second factor, or per group. The loop drops the digits that were consumed, and copies the result into the
register. A span that is no operation, or an end that is no number, is an abstention with a reason.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import torch
from torch import Tensor

from model.evaluation.decoding import answering
from model.evaluation.rewriting.outputs import Result, mark_confidence, of_similar_length, results_of
from model.evaluation.rewriting.trace import Step, Trace
from model.network.rewriting.encoder import RewritingEncoder
from model.tokenizer import REGISTER, Tokenizer

_UNIT = re.compile(r"\d+|\D")
_NUMBER = re.compile(r"-?\d+")
OPERATION = re.compile(r"-?\(-?\d+\)|--\d+|-?\d+[-+*]-?\d+|\((-?\d+[-+*]-?\d+)\)")
_PRODUCT_STEPS = {
    size: re.compile(rf"(-?\d+\*-?)\d{{1,{size}}}((?:\d{{{size}}})+){REGISTER}\d+") for size in (1, 2, 3, 4)
}


@dataclass(frozen=True)
class Rewriter:
    """An encoder that rewrites, with its tokenizer and the precision in which it answers."""

    encoder: RewritingEncoder
    tokenizer: Tokenizer
    precision: torch.dtype

    def traces(self, problems: Sequence[str]) -> list[Trace]:
        """Rewrite every expression until nothing is marked; each state is an expression of the same value."""
        active = traces = [Trace([problem]) for problem in problems]
        with answering(self.encoder, self.precision):
            # Whatever the encoder says, each pass lowers the number of numbers, brackets and signs together. So a
            # problem has no more passes than characters.
            while active:
                active = self._rewritten(active)
        return traces

    def _rewritten(self, traces: list[Trace]) -> list[Trace]:
        """Carry out one pass over all states, and return the traces that go on."""
        marked, active = self._marked(traces), list[Trace]()
        results = self._carried_out({span for parts in marked for is_marked, span in parts if is_marked})
        for trace, parts in zip(traces, marked, strict=True):
            state, begins = trace.states[-1], accumulate((len(part) for _, part in parts), initial=0)
            spans = [(begin, span) for begin, (is_marked, span) in zip(begins, parts, strict=False) if is_marked]
            refused = next((span for _, span in spans if isinstance(results[span], str)), "")
            if refused:
                trace.reason = f"the encoder marks {refused} in {state}, {results[refused]}"
                trace.steps.append([Step(begin, span, "", 0.0) for begin, span in spans if span == refused])
            elif spans:
                trace.steps.append([Step(begin, span, *results[span]) for begin, span in spans])
                trace.confidences.extend(step.confidence for step in trace.steps[-1])
                following = iter(trace.steps[-1])
                trace.states.append("".join(next(following).result if mark else part for mark, part in parts))
                active.append(trace)
            elif _NUMBER.fullmatch(state):
                # A minus before a bracket of zero stays; zero has no sign.
                trace.answer = "0" if state == "-0" else state
            else:
                trace.reason = f"the encoder marks nothing in {state}"
        return active

    def _marked(self, traces: list[Trace]) -> list[list[tuple[bool, str]]]:
        """Each trace's last state, cut into parts that are marked and parts that are not; notes the confidence."""
        found: list[list[tuple[bool, str]]] = [[] for _ in traces]
        units = [_UNIT.findall(trace.states[-1]) for trace in traces]
        for rows in of_similar_length(units):
            read = self.encoder.reader.units(self.ids(["".join(units[row]) for row in rows]))
            logits = self.encoder.mark(read, self.encoder.config.mark_loops).float()
            marks, inside, sure = (part.cpu() for part in (logits.gt(0), read.inside, mark_confidence(read, logits)))
            for row, mark, there, confidence in zip(rows, marks, inside, sure.tolist(), strict=True):
                traces[row].confidences.append(confidence)
                parts = groupby(zip(mark[there].tolist(), units[row], strict=True), key=lambda pair: pair[0])
                found[row] = [(is_marked, "".join(unit for _, unit in part)) for is_marked, part in parts]
        return found

    def _carried_out(self, spans: Iterable[str]) -> dict[str, tuple[str, float] | str]:
        """The result and confidence of every span, or the reason why it has none."""
        found: dict[str, tuple[str, float] | str] = dict.fromkeys(spans, "which is no operation")
        texts = {span: match[1] or span for span in found if (match := OPERATION.fullmatch(span))}
        texts = {span: f"{text}{REGISTER}0" if "*" in text else text for span, text in texts.items()}
        sure: dict[str, list[float]] = {span: [] for span in texts}
        while texts:
            following: dict[str, str] = {}
            for span, result in self._filled(texts):
                sure[span].append(result.confidence)
                step = _PRODUCT_STEPS[self.encoder.config.digits_per_step].fullmatch(texts[span])
                if result.done:
                    found[span] = (result.text, math.prod(sure[span]))
                elif step:
                    following[span] = f"{step[1]}{step[2]}{REGISTER}{result.digits}"
                else:
                    found[span] = f"and asks for another pass after {texts[span]}"
            texts = following
        return found

    def _filled(self, texts: dict[str, str]) -> Iterator[tuple[str, Result]]:
        """One pass over operations: yields each span with the result of its operation."""
        spans, names = [*texts], [*texts.values()]
        for rows in of_similar_length(names):
            operations = self.encoder.reader.operations(self.ids([names[row] for row in rows]))
            logits = self.encoder.logits(operations, self.encoder.settled(operations))
            yield from zip((spans[row] for row in rows), results_of(operations, logits), strict=True)

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids of texts [n, width]; shorter ones begin with padding."""
        device = next(self.encoder.parameters()).device
        return torch.from_numpy(self.tokenizer.right_aligned(texts).astype(np.int64)).to(device)
