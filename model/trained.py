"""Opens a trained encoder with its tokenizer, for evaluation and for answering what people type."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.checkpoint import CheckpointEntry, Checkpoints, restore
from model.decoding import Answers, fill_slots, spell
from model.encoder import Encoder
from model.optimizer import precision_of
from model.run import RunConfig, load_run, run_tokenizer
from model.tokenizer import Tokenizer
from storage.location import Location


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder as one checkpoint left it."""

    config: RunConfig
    checkpoint: CheckpointEntry
    tokenizer: Tokenizer
    encoder: Encoder
    precision: torch.dtype

    @classmethod
    def open(cls, folder: Location, which: str = "best") -> "TrainedEncoder":
        """The 'best' or 'last' checkpoint of a run; raises `UserError` where there is none."""
        config = load_run(folder)
        checkpoints = Checkpoints(folder / "checkpoints")
        entry = checkpoints.choose(which)
        tokenizer = run_tokenizer(folder, config)
        encoder = Encoder(config.training.encoder, tokenizer, config.layout)
        restore(checkpoints.load(entry, config), encoder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(config, entry, tokenizer, encoder.to(device), precision_of(config.training, device))

    def fill(self, rows: np.ndarray) -> Answers:
        """Answers to token rows, uint8 [n, width]."""
        return fill_slots(self.encoder, self.tokenizer, rows, self.precision)

    def solve(self, problems: Sequence[str]) -> list[str]:
        """Answers to problems in text; raises `UserError` for one that can't be read or is too long."""
        if not problems:
            return []
        rows = np.array([self.tokenizer.row(problem, self.config.layout) for problem in problems], np.uint8)
        return spell(self.fill(rows).ids, self.tokenizer).to_pylist()
