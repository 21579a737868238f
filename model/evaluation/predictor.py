"""Opens a trained encoder with its tokenizer, for evaluation and for problems in text form."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import nn

from model.config.encoder import Extent
from model.config.evaluation import ONE_PASS, Decoding
from model.evaluation.decoding import Answers, fill_slots, spell
from model.evaluation.rewriting.by_code import rewriter_class
from model.evaluation.rewriting.loop import Rewriter
from model.evaluation.rewriting.trace import Trace
from model.network.encoder import Encoder
from model.network.rewriting.encoder import RewritingEncoder
from model.network.rewriting.rows import Operations, Units
from model.process import prepare_torch
from model.runs.checkpoints import CheckpointEntry, Checkpoints, restore
from model.runs.run_config import RunConfig, load_run, run_tokenizer
from model.tokenizer import Tokenizer, TokenLayout
from model.training.hardware import answering_precision
from storage.errors import UserError
from storage.places.place import Location

# How encoders of each kind answer.
_WAYS = {"answers": "fills the slots of an answer", "rewriting": "answers by rewriting"}


class Solution(NamedTuple):
    """An answer and its probability according to the encoder."""

    answer: str
    """Empty if the encoder abstains."""
    confidence: float
    trace: Trace | None = None
    """How an encoder that rewrites came to the answer, or why it abstains."""

    @property
    def abstained(self) -> bool:
        """Whether the encoder itself gave no answer."""
        return self.trace is not None and not self.answer


@dataclass(frozen=True)
class TrainedModel(ABC):
    """An encoder of any kind with the weights of one checkpoint."""

    config: RunConfig
    checkpoint: CheckpointEntry
    tokenizer: Tokenizer
    encoder: nn.Module
    precision: torch.dtype

    kind: ClassVar[str]
    """The `kind` in the encoder's configuration."""
    network: ClassVar[type[Encoder] | type[RewritingEncoder]]
    """The encoder's class."""

    @classmethod
    def open(cls, folder: Location, which: str = "best") -> Self:
        """Open the 'best' or 'last' checkpoint of a run.

        Raises `UserError` if there is none or the run's encoder is of another kind.
        """
        prepare_torch()
        config = load_run(folder)
        own = config.training.encoder.kind
        if own != cls.kind:
            raise UserError(
                f"run {config.name!r} {_WAYS[own]}, but this needs an encoder that {_WAYS[cls.kind]}: use another run"
            )
        checkpoints = Checkpoints(folder / "checkpoints")
        entry = checkpoints.choose(which)
        tokenizer = run_tokenizer(folder, config)
        # Loaded first, because this rejects checkpoints of other runs, which may have any shape.
        tensors = checkpoints.load(entry, config)
        encoder = cls.network(config.training.encoder, tokenizer)
        restore(tensors, encoder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        trained = config.precision or config.training.precision
        return cls(config, entry, tokenizer, encoder.to(device), answering_precision(trained, device))

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.encoder.parameters())

    @abstractmethod
    def solve(self, problems: Sequence[str], decoding: Decoding = ONE_PASS) -> list[Solution]:
        """Answers to problems in text form; raises `UserError` for a problem that cannot be parsed or is too large."""

    @abstractmethod
    def check_decoding(self, decoding: Decoding) -> None:
        """Raise `UserError` if the encoder cannot answer in this way."""


def open_trained(folder: Location, which: str = "best") -> TrainedModel:
    """Open the 'best' or 'last' checkpoint of a run of any kind; raises `UserError` if there is none."""
    kind = load_run(folder).training.encoder.kind
    return (TrainedRewriter if kind == "rewriting" else TrainedEncoder).open(folder, which)


@dataclass(frozen=True)
class TrainedEncoder(TrainedModel):
    """An encoder that answers by filling the slots of the answer."""

    encoder: Encoder

    kind = "answers"
    network = Encoder

    def fill(self, rows: np.ndarray, slots: int, decoding: Decoding = ONE_PASS) -> Answers:
        """Answers to token rows [n, width], whose last `slots` tokens are the answer."""
        return fill_slots(self.encoder, self.tokenizer, rows, slots, self.precision, decoding)

    def solve(self, problems: Sequence[str], decoding: Decoding = ONE_PASS) -> list[Solution]:
        self.check_decoding(decoding)
        found: list[Solution | None] = [None] * len(problems)
        layouts = [self.layout_of(problem) for problem in problems]
        for layout in dict.fromkeys(layouts):
            chosen = [number for number, other in enumerate(layouts) if other == layout]
            rows = np.array([self.tokenizer.row(problems[number], layout) for number in chosen], self.tokenizer.id_type)
            answers = self.fill(rows, layout.answer, decoding)
            texts = spell(answers.ids, self.tokenizer).to_pylist()
            for number, text, confidence in zip(chosen, texts, answers.confidence.tolist(), strict=True):
                found[number] = Solution(text, confidence)
        return [solution for solution in found if solution]

    def check_decoding(self, decoding: Decoding) -> None:
        if decoding.method == "rewriting":
            raise UserError(
                f"decoding.method is rewriting, but run {self.config.name!r} {_WAYS[self.kind]}: name a run whose "
                "encoder rewrites, or remove decoding.method"
            )
        if "code" in (decoding.marks, decoding.values):
            raise UserError(
                f"decoding.marks and decoding.values are for encoders that rewrite, but run {self.config.name!r} "
                "answers at once: remove them"
            )
        if decoding.unit == "off" and self.encoder.unit is None:
            raise UserError(
                f"decoding.unit is off, but run {self.config.name!r} has no symbolic unit: remove decoding.unit"
            )

    def layout_of(self, problem: str) -> TokenLayout:
        """The token layout for a problem in text form; raises `UserError` if the problem is too large.

        With learned pieces, the number of an answer's pieces is unknown in advance. It gets one slot per possible
        digit, but no more than the run's widest answer.
        """
        extent, group = extent_of(problem), self.tokenizer.group
        if group != 1:
            slots = 1 + -(-(extent.answer - 1) // group) if group else min(extent.answer, self.config.extent.answer)
            extent = extent._replace(problem=len(self.tokenizer.encode(problem)), answer=slots)
        return self.config.layout_for(extent)


@dataclass(frozen=True)
class TrainedRewriter(TrainedModel):
    """An encoder that answers by rewriting the problem."""

    encoder: RewritingEncoder

    kind = "rewriting"
    network = RewritingEncoder

    @property
    def rewriter(self) -> Rewriter:
        return Rewriter(self.encoder, self.tokenizer, self.precision)

    def solve(self, problems: Sequence[str], decoding: Decoding = ONE_PASS) -> list[Solution]:
        self.check_decoding(decoding)
        traces = rewriter_class(decoding)(self.encoder, self.tokenizer, self.precision).traces(problems)
        return [Solution(trace.answer, trace.confidence, trace) for trace in traces]

    def operations(self, texts: Sequence[str]) -> Operations:
        """The operations in text form, as the encoder reads them."""
        return self.encoder.reader.operations(self.rewriter.ids(texts))

    def units(self, texts: Sequence[str]) -> Units:
        """The units of expressions in text form."""
        return self.encoder.reader.units(self.rewriter.ids(texts))

    def check_decoding(self, decoding: Decoding) -> None:
        if decoding.method == "slots":
            raise UserError(
                f"decoding.method is slots, but run {self.config.name!r} {_WAYS[self.kind]}: remove decoding.method"
            )
        if not decoding.is_default("marks", "values"):
            raise UserError(
                f"run {self.config.name!r} answers by rewriting, whose only decoding options are marks and values: "
                "remove the others"
            )


def extent_of(problem: str) -> Extent:
    """Size of a problem in text form, with one token per character; the answer's size is an upper bound."""
    numbers = [len(number) for number in re.findall(r"[0-9]+", problem)]
    longest = sum(numbers) if "*" in problem else max(numbers, default=1) + len(str(len(numbers)))
    depth, deepest = 0, 0
    for character in problem:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return Extent(len(problem), longest + 1, max(numbers, default=1), len(numbers), deepest)
