"""The neural arithmetic logic unit (A. Trask et al., arXiv 1808.00508, section 3), the published baseline.

Sums by weights that are drawn to -1, 0 and 1, products by the same weights on logarithms, and a
gate between both. Here the gate follows what operation is read, beside the numbers themselves.
"""

import torch
from torch import Tensor, nn

_EPSILON = 1e-7


class Nac(nn.Module):
    """Neural accumulator: a linear layer without bias whose weights, tanh(Ŵ)·σ(M̂), tend to -1, 0 or 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(outputs, inputs))
        self.presence = nn.Parameter(torch.zeros(outputs, inputs))

    @property
    def weight(self) -> Tensor:
        """[outputs, inputs]."""
        return self.slope.tanh() * self.presence.sigmoid()

    def forward(self, values: Tensor) -> Tensor:
        """Sums [n, outputs] of values [n, inputs]."""
        return values @ self.weight.T


class Nalu(nn.Module):
    """One NALU layer: sums and products of real numbers by one set of weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.accumulator = Nac(inputs, outputs)
        self.gate = nn.Linear(inputs + 3, outputs)

    def forward(self, values: Tensor, operation: Tensor) -> Tensor:
        """Results [n, outputs] of values [n, inputs], of which `operation` [n, 3] is asked."""
        logarithms = (values.abs() + _EPSILON).log()
        # What the gate sees of the numbers is their size: of large ones it would be always open or shut.
        share = self.gate(torch.cat([logarithms / 10, operation], 1)).sigmoid()
        # So that a product never leaves what float32 holds.
        return share * self.accumulator(values) + (1 - share) * self.accumulator(logarithms).clamp(max=80).exp()
