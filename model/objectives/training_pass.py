"""The encoder's forward pass in training: with random loops, random position offsets and a second head."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.network.encoder import Encoder
from model.network.positions import TokenPositions


class Loops(NamedTuple):
    """Runs of the block in a training step (progressive training, arXiv 2202.05826)."""

    trained: int
    """Runs with gradient."""
    warm: int = 0
    """Runs without gradient before them."""


class TrainingPass(nn.Module):
    """Computes the logits of a training step; its weights are the encoder's."""

    def __init__(self, encoder: Encoder, precision: torch.dtype) -> None:
        super().__init__()
        self.encoder, self.precision = encoder, precision

    def forward(
        self, ids: Tensor, slots: int, positions: TokenPositions, last: int, loops: Loops, offset: Tensor | None = None
    ) -> Tensor:
        """Logits [n, last, outputs] of the last `last` tokens of token ids [n, width] with these positions.

        `offset` [n] in [0, 1) shifts place values. If the encoder has the running sum's head, its logits come after the
        pieces' logits.
        """
        encoder = self.encoder
        with torch.autocast(ids.device.type, self.precision, enabled=self.precision is not torch.float32):
            inputs = encoder.embed(ids, slots, positions=positions, offset=offset)
            state: Tensor | float = 0.0
            if loops.warm:
                with torch.no_grad():
                    state = encoder.iterate(replace(inputs, bias=inputs.bias.detach()), loops.warm, ids.shape[1])
                # Otherwise autocast reuses the weights cast here, which have no gradient.
                torch.clear_autocast_cache()
            state = encoder.iterate(inputs, loops.trained, last, state)
            if encoder.running_sum is None:
                return encoder.head(state)
            return torch.cat([encoder.head(state), encoder.running_sum(state)], -1)
