"""Rotations of contenders: the values they are given, and their part of a step, alone."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from rotograd_cli.data.base import Batch
from rotograd_cli.linalg.triangle import packed
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.engine.passes import ForwardPass
from rotograd_cli.methods.engine.step import Step
from rotograd_cli.methods.heads.choose import training_leaves
from rotograd_cli.methods.rotation.rotations import Rotations
from rotograd_cli.methods.statistics import Losses
from rotograd_cli.trees import call

_PLANES = 8
_DECAY = 0.5


def skew_parameters(num: int, size: int, norm: float, seed: int, *, gaussian: bool) -> Tensor:
    r"""Return free parameters X of random skew matrices :math:`A_k` of a given spectral norm.

    As after training, every :math:`A_k` turns a few random planes, each half as far as the one
    before: its :math:`\lVert A\rVert_F/\sqrt2` is 1.15 times the spectral norm (1.05 to 1.5 in
    trained models). That of a Gaussian matrix is 0.35 times the square root of m: 8 for m = 512.

    Args:
        num: K.
        size: m.
        norm: Spectral norm of every :math:`A_k`; 0 of the only skew matrix of size 1.
        seed: Seed of all of them.
        gaussian: Whether the entries of X are independent and normal.

    Returns:
        Strictly lower triangular matrices, shape ``[K, m, m]``, float64, on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = _gaussian if gaussian else _few_planes
    result = torch.empty(num, size, size, dtype=torch.float64)
    for X in result:
        X.copy_(norm * draw(size, generator).tril(-1))
    return result


def _gaussian(size: int, generator: torch.Generator) -> Tensor:
    """Return a skew Gaussian matrix, divided by its spectral norm."""
    half = torch.randn(size, size, dtype=torch.float64, generator=generator)
    A = half - half.mT
    norm: Tensor = torch.linalg.matrix_norm(A, ord=2)
    return A / norm.clamp_min(1e-300)  # 0 for m = 1


def _few_planes(size: int, generator: torch.Generator) -> Tensor:
    """Return a skew matrix of spectral norm 1 that turns a few planes."""
    num_planes = min(_PLANES, size // 2)
    angles = _DECAY ** torch.arange(num_planes, dtype=torch.float64)
    vectors = torch.randn(size, 2 * num_planes, dtype=torch.float64, generator=generator)
    p, q = torch.linalg.qr(vectors).Q.chunk(2, dim=1)
    half: Tensor = p * angles @ q.mT
    return half - half.mT


class RotationState:
    """Bases and free parameters that every contender with rotations is given before a block.

    Args:
        norm: Spectral norm of every :math:`A_k`.
        seed: Seed of the free parameters.
        gaussian: See :func:`skew_parameters`.
    """

    def __init__(self, norm: float, seed: int, *, gaussian: bool) -> None:
        self._draw = partial(skew_parameters, norm=norm, seed=seed, gaussian=gaussian)
        self._states: dict[torch.Size, tuple[Tensor, Tensor]] = {}

    def give(self, model: nn.Module) -> None:
        """Set all rotations of a model of ours; see :meth:`give_to`."""
        for rotations in rotations_of(model):
            X = torch.empty_like(rotations.base)
            self.give_to(rotations.base.unbind(), X.unbind())
            rotations.free_parameters.detach().copy_(packed(X))
            rotations.refresh()  # accelerators plan for these values

    @torch.no_grad()
    def give_to(self, bases: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        """Set K bases and K free parameters; the bases are the first ones given of their shape."""
        num = len(bases)
        shape = torch.Size((num, *bases[0].shape))
        if shape not in self._states:
            X = self._draw(num, shape[-1])
            self._states[shape] = (torch.stack(list(bases)), X.to(bases[0]))
        for matrices, values in zip((bases, parameters), self._states[shape], strict=True):
            for matrix, value in zip(matrices, values, strict=True):
                matrix.copy_(value)


def rotations_of(model: nn.Module) -> list[Rotations]:
    """Return the stacks of rotations in a model; none for methods without."""
    return [module for module in model.modules() if isinstance(module, Rotations)]


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
    call(model, batch.inputs)
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
            by_task = list(gradients[0] if leaves.stacked else gradients)
            model.combine(run, by_task, model.rule.factors(step.losses), step)
        for parameter in model.mtl_parameters():
            parameter.grad = None

    return work
