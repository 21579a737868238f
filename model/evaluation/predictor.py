"""Opens a trained encoder with its tokenizer, for evaluation and for problems in text form."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from model.config.encoder import Extent
from model.config.evaluation import ONE_PASS, Decoding
from model.evaluation.decoding import Answers, fill_slots, spell
from model.network.encoder import Encoder
from model.process import prepare_torch
from model.runs.checkpoints import CheckpointEntry, Checkpoints, restore
from model.runs.run_config import RunConfig, load_run, run_tokenizer
from model.tokenizer import Tokenizer, TokenLayout
from model.training.optimizer import precision_of
from storage.errors import UserError
from storage.places.place import Location


class Solution(NamedTuple):
    """An answer and its probability according to the encoder."""

    answer: str
    confidence: float


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder with the weights of one checkpoint."""

    config: RunConfig
    checkpoint: CheckpointEntry
    tokenizer: Tokenizer
    encoder: Encoder
    precision: torch.dtype

    @classmethod
    def open(cls, folder: Location, which: str = "best") -> "TrainedEncoder":
        """Open the 'best' or 'last' checkpoint of a run; raises `UserError` if there is none."""
        prepare_torch()
        config = load_run(folder)
        checkpoints = Checkpoints(folder / "checkpoints")
        entry = checkpoints.choose(which)
        tokenizer = run_tokenizer(folder, config)
        # Loaded first, because this rejects checkpoints of other runs, which may have any shape.
        tensors = checkpoints.load(entry, config)
        encoder = Encoder(config.training.encoder, tokenizer)
        restore(tensors, encoder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(config, entry, tokenizer, encoder.to(device), precision_of(config.training, device))

    def fill(self, rows: np.ndarray, slots: int, decoding: Decoding = ONE_PASS) -> Answers:
        """Answers to token rows [n, width], whose last `slots` tokens are the answer."""
        return fill_slots(self.encoder, self.tokenizer, rows, slots, self.precision, decoding)

    def solve(self, problems: Sequence[str], decoding: Decoding = ONE_PASS) -> list[Solution]:
        """Answers to problems in text form; raises `UserError` for a problem that cannot be parsed or is too large."""
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
        """Raise `UserError` if the symbolic unit is to be disabled but the encoder has none."""
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


def extent_of(problem: str) -> Extent:
    """Size of a problem in text form, with one token per character; the answer's size is an upper bound."""
    numbers = [len(number) for number in re.findall(r"[0-9]+", problem)]
    longest = sum(numbers) if "*" in problem else max(numbers, default=1) + len(str(len(numbers)))
    depth, deepest = 0, 0
    for character in problem:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return Extent(len(problem), longest + 1, max(numbers, default=1), len(numbers), deepest)
