"""The neural arithmetic logic unit (A. Trask et al., arXiv 1808.00508, section 3), the published baseline.

It computes sums with weights biased towards -1, 0 and 1, and products with the same weights on logarithms. A gate
mixes both. Here the gate depends on the operation that is read, in addition to the numbers.
"""

import torch
from torch import Tensor, nn

_EPSILON = 1e-7


class Nac(nn.Module):
    """Neural accumulator: a linear layer without bias whose weights tanh(Ŵ)·σ(M̂) tend towards -1, 0 or 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(outputs, inputs))
        self.presence = nn.Parameter(torch.zeros(outputs, inputs))

    @property
    def weight(self) -> Tensor:
        """Effective weights [outputs, inputs]."""
        return self.slope.tanh() * self.presence.sigmoid()

    def forward(self, values: Tensor) -> Tensor:
        """Sums [n, outputs] of values [n, inputs]."""
        return values @ self.weight.T


class Nalu(nn.Module):
    """One NALU layer: sums and products of real numbers with one set of weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.accumulator = Nac(inputs, outputs)
        self.gate = nn.Linear(inputs + 3, outputs)

    def forward(self, values: Tensor, operation: Tensor) -> Tensor:
        """Results [n, outputs] of values [n, inputs]; `operation` [n, 3] holds the probabilities of +, - and *."""
        logarithms = (values.abs() + _EPSILON).log()
        # The gate reads scaled logarithms, because large values would saturate it.
        share = self.gate(torch.cat([logarithms / 10, operation], 1)).sigmoid()
        # Clamped, so that a product stays within the range of float32.
        return share * self.accumulator(values) + (1 - share) * self.accumulator(logarithms).clamp(max=80).exp()
