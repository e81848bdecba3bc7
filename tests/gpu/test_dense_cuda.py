"""Losses and metrics of dense tasks on a CUDA device: no waiting, and the CPU's numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from rotograd_cli.tasks import losses, metrics
from rotograd_cli.tasks.metrics import MetricSpec
from rotograd_cli.training.seeding import set_deterministic

pytestmark = pytest.mark.gpu

SPECS: dict[str, tuple[MetricSpec, ...]] = {
    "segmentation": metrics.segmentation(13),
    "depth exact": metrics.depth("exact"),
    "depth mtan_batch": metrics.depth("mtan_batch"),
    "normals exact": metrics.normals("exact"),
    "normals mtan_batch": metrics.normals("mtan_batch"),
}
LOSSES = {
    "segmentation": losses.segmentation_cross_entropy,
    "depth": losses.depth_l1,
    "normals": losses.normal_cosine,
}


def drawn(task: str) -> tuple[Tensor, Tensor]:
    """Predictions and targets of five images."""
    generator = torch.Generator().manual_seed(0)
    channels = {"segmentation": 13, "depth": 1, "normals": 3}[task]
    prediction = torch.randn(5, channels, 36, 48, generator=generator)
    if task == "segmentation":
        labels = torch.randint(-1, 13, (5, 36, 48), generator=generator)
        return prediction, labels.to(torch.int8)
    missing = torch.rand(5, 1, 36, 48, generator=generator) < 0.2
    target = torch.randn(5, channels, 36, 48, generator=generator)
    target = target.abs() + 1 if task == "depth" else torch.nn.functional.normalize(target, dim=1)
    return prediction, torch.where(missing, 0, target)


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def updated(case: str, device: str) -> metrics.Metric:
    spec = SPECS[case][0]
    prediction, target = (x.to(device) for x in drawn(case.split()[0]))
    first = spec.create().to(device)
    first.update(spec.prepare(prediction[:1]), target[:1])  # whatever is set up once
    metric = spec.create().to(device)
    with no_waiting():
        for part in (slice(0, 3), slice(3, 5)):
            metric.update(spec.prepare(prediction[part]), target[part])
    return metric


@pytest.mark.parametrize("case", SPECS)
def test_metrics_wait_for_nothing_and_are_those_of_the_cpu(case: str) -> None:
    measured = updated(case, "cuda").compute().cpu()
    # float32 angles of two implementations of atan2 and acos
    torch.testing.assert_close(measured, updated(case, "cpu").compute(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", SPECS)
def test_metrics_have_deterministic_kernels(case: str) -> None:
    expected = updated(case, "cuda").compute()
    spec = SPECS[case][0]
    prediction, target = (x.cuda() for x in drawn(case.split()[0]))
    set_deterministic(True)
    try:
        metric = spec.create().cuda()
        metric.update(spec.prepare(prediction), target)
        torch.testing.assert_close(metric.compute(), expected, rtol=1e-12, atol=1e-12)
    finally:
        set_deterministic(False)


@pytest.mark.parametrize("task", LOSSES)
@pytest.mark.parametrize("deterministic", [False, True])
def test_losses_wait_for_nothing_and_are_those_of_the_cpu(task: str, deterministic: bool) -> None:
    values, gradients = [], []
    set_deterministic(deterministic)
    try:
        for device in ("cpu", "cuda"):
            prediction, target = (x.to(device) for x in drawn(task))
            prediction.requires_grad_()
            with no_waiting():
                loss = LOSSES[task](prediction, target)
                (gradient,) = torch.autograd.grad(loss, prediction)
            values.append(loss.detach().cpu())
            gradients.append(gradient.cpu())
    finally:
        set_deterministic(False)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
