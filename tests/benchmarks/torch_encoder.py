"""PyTorch's own encoder, of a shape like ours, with learned positions: a peer that benchmarks time."""

import torch
from torch import Tensor, nn

from model.config.encoder import EncoderConfig


class TorchEncoder(nn.Module):
    """PyTorch's own layers on rows of `width` tokens, of which the last `slots` are the answer's."""

    def __init__(self, config: EncoderConfig, pieces: int, width: int, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.tokens = nn.Embedding(pieces, config.width)
        self.places = nn.Parameter(torch.zeros(width, config.width))
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feedforward, dropout=0.0, batch_first=True,
            norm_first=config.norm == "pre",
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.head = nn.Linear(config.width, pieces)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [n, slots, pieces] of the slots."""
        return self.head(self.layers(self.tokens(ids) + self.places)[:, -self.slots :])
