"""Muon: its steps are those of the singular values, alike on every processor, and it continues torch's own."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from model.training.optimizer import Muon, orthogonalised


def by_singular_values(matrix: Tensor) -> Tensor:
    """The definition: five steps of the polynomial on the singular values, in float64."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / matrix.double().norm()
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return left * values @ right


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (16, 16), (96, 96), (96, 288), (128, 512)])
def test_matrices_become_those_of_the_definition(rows: int, columns: int) -> None:
    matrices = torch.stack([drawn(rows, columns, seed=seed) * 10.0 ** (3 * seed) for seed in range(3)])
    for found, matrix in zip(orthogonalised(matrices), matrices, strict=True):
        # The entries are below 1, and float32 has seven digits; small singular values grow 485 times.
        torch.testing.assert_close(found.double(), by_singular_values(matrix), rtol=0, atol=2e-4)


def test_a_matrix_of_low_rank_and_one_of_zeros() -> None:
    low = drawn(64, 4) @ drawn(4, 128, seed=1) + 1e-5 * drawn(64, 128, seed=2)
    low_found, zero_found = orthogonalised(torch.stack([low, torch.zeros_like(low)]))
    torch.testing.assert_close(low_found.double(), by_singular_values(low), rtol=0, atol=2e-4)
    assert not zero_found.any()


def parameters() -> list[nn.Parameter]:
    shapes = [(24, 8), (8, 24), (8, 8), (24, 8)]
    return [nn.Parameter(drawn(*shape, seed=seed)) for seed, shape in enumerate(shapes)]


def test_a_step_by_the_definition() -> None:
    weights = parameters()
    optimizer = Muon(weights, lr=0.1, momentum=0.9)
    expected, averages = [weight.detach().double() for weight in weights], [torch.zeros(())] * len(weights)
    for step in range(3):
        for number, weight in enumerate(weights):
            gradient = drawn(*weight.shape, seed=100 * step + number)
            weight.grad = gradient.clone()
            averages[number] = 0.9 * averages[number] + 0.1 * gradient
            update = by_singular_values(0.1 * gradient + 0.9 * averages[number])
            expected[number] = expected[number] - 0.1 * math.sqrt(max(1, weight.shape[0] / weight.shape[1])) * update
        optimizer.step()
    for weight, other in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach().double(), other, rtol=0, atol=1e-4)


def test_a_training_that_torchs_own_began_continues() -> None:
    weights, others = parameters(), parameters()
    torchs = torch.optim.Muon(others, lr=0.1, momentum=0.9, weight_decay=0.0)
    for weight, other in zip(weights, others, strict=True):
        other.grad, weight.grad = drawn(*weight.shape, seed=7), drawn(*weight.shape, seed=8)
    torchs.step()
    optimizer = Muon(weights, lr=0.5, momentum=0.5)
    optimizer.load_state_dict(torchs.state_dict())
    optimizer.step()
    for weight, before in zip(weights, parameters(), strict=True):
        first, second = (drawn(*weight.shape, seed=seed) for seed in (7, 8))
        update = by_singular_values(0.1 * second + 0.9 * (0.9 * 0.1 * first + 0.1 * second))
        rate = 0.1 * math.sqrt(max(1, weight.shape[0] / weight.shape[1]))
        torch.testing.assert_close(weight.detach().double(), before.detach() - rate * update, rtol=0, atol=1e-4)


def test_weights_without_a_gradient_stay() -> None:
    weights = parameters()
    weights[0].grad = drawn(24, 8, seed=9)
    before = [weight.detach().clone() for weight in weights]
    Muon(weights, lr=0.1).step()
    assert [torch.equal(*pair) for pair in zip(weights, before, strict=True)] == [False, True, True, True]


class Precisions(TorchDispatchMode):
    """Collects the data types of all results."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.found |= {result.dtype} if isinstance(result, Tensor) else set()
        return result


def test_nothing_is_computed_in_bfloat16() -> None:
    # Some processors need thirty times longer for it, and a rounded last bit becomes a thousandth.
    weights = parameters()
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    with Precisions() as precisions:
        Muon(weights, lr=0.1).step()
    assert precisions.found == {torch.float32}
