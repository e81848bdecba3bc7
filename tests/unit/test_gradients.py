"""Norms and reference direction against a loop over the tasks, as the authors' code has it."""

import pytest
import torch
from torch import Tensor

from rotograd_cli.errors import ShapeError
from rotograd_cli.linalg.gradients import (
    divide_or_zero,
    mean_gradient_norm,
    reference_weights,
    task_norms,
)
from tests.samplers import SAMPLERS


def naive_reference(rows: list[Tensor]) -> Tensor:
    """The authors' v': task gradients at the length of their mean, averaged."""
    mean = torch.stack(rows).mean(0)
    return torch.stack([g * mean.norm() / g.norm() if g.any() else g for g in rows]).mean(0)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_reference_direction_agrees_with_a_loop(kind: str) -> None:
    G = SAMPLERS[kind]().double()
    num = torch.tensor(G.shape[0])
    found = reference_weights(G, task_norms(G), num) @ G
    wanted = naive_reference(list(G))
    scale = float(G.norm(dim=1).max()) + 1e-300
    torch.testing.assert_close(found / scale, wanted / scale, rtol=1e-12, atol=1e-15)
    for k, g in enumerate(G):
        torch.testing.assert_close(task_norms(G)[k], g.norm())
    torch.testing.assert_close(mean_gradient_norm(G, num), G.mean(0).norm())


def test_absent_tasks_take_no_part_in_any_mean() -> None:
    G = SAMPLERS["zero_row"]().double()
    present = G[[0, 2, 3]]
    num = torch.tensor(3)
    torch.testing.assert_close(mean_gradient_norm(G, num), present.mean(0).norm())
    weights = reference_weights(G, task_norms(G), num)
    assert weights[1] == 0
    torch.testing.assert_close(weights @ G, naive_reference(list(present)))


def test_norms_of_half_precision_gradients_are_accumulated_in_float32() -> None:
    G = torch.full((1, 1000), 300.0, dtype=torch.float16)  # the squares overflow in float16
    norms = task_norms(G)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, torch.tensor([300.0 * 1000**0.5]))


def test_nobody_present_means_zero() -> None:
    G, nobody = torch.zeros(2, 3), torch.tensor(0)
    assert mean_gradient_norm(G, nobody) == 0
    assert not reference_weights(G, task_norms(G), nobody).any()


def test_divide_or_zero_is_exact_and_its_gradient_finite() -> None:
    x = torch.tensor([3.0, -1.0, 0.0, 2.0], requires_grad=True)
    y = torch.tensor([2.0, 0.0, 0.0, -4.0], requires_grad=True)
    quotient = divide_or_zero(x, y)
    assert quotient.tolist() == [1.5, 0.0, 0.0, -0.5]
    for gradient in torch.autograd.grad(quotient.sum(), (x, y)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("function", [task_norms, lambda G: mean_gradient_norm(G, torch.tensor(1))])
def test_gradients_must_be_a_matrix(function: object) -> None:
    with pytest.raises(ShapeError, match=r"must have shape \[K, D\], got \[3\]; flatten each"):
        function(torch.zeros(3))  # type: ignore[operator]
