"""The part of a step that a method spends on its rotations."""

from collections.abc import Callable

import torch
from torch import nn

from rotograd_cli.data.base import Batch
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.engine.passes import ForwardPass
from rotograd_cli.methods.engine.step import Step
from rotograd_cli.methods.heads.choose import training_leaves
from rotograd_cli.methods.rule import Losses


def rotation_part(model: nn.Module, batch: Batch) -> Callable[[], None] | None:
    """Return the rotation work of one step, alone, to be timed in blocks of its own.

    What the heads see is computed from fixed features, and fixed gradients of it are combined: all
    that a step does besides running and differentiating backbone, heads and losses. First layers
    that rotations are folded into are part of it.

    Args:
        model: A contender's model in training mode, on the device, its rotations prepared.
        batch: A batch of the benchmark.

    Returns:
        What does that work once, without a network; None for methods without rotations.
    """
    if not isinstance(model, MultiTaskMethod) or model.rotated is None:
        return None
    model(batch.inputs)
    features = model.rep
    assert features is not None
    features = features.detach()
    ones = torch.ones(model.num_tasks, device=features.device)
    step = Step(ones, Losses(ones, ones > 0), scale=None, num_micro_batches=1)
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(leaf.shape, generator=generator).to(leaf) for leaf in model.leaves]

    def work() -> None:
        leaves = training_leaves(model.heads, features, model.rotated, per_task=True)
        run = ForwardPass(features, leaves)
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            by_task = gradients[0].unbind() if leaves.stacked else gradients
            model.combine(run, by_task, None, step)
        for parameter in model.mtl_parameters():
            parameter.grad = None

    return work
