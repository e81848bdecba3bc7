r"""What a rule is: the mathematics that turns K task gradients into one.

A rule sees numbers of the whole batch: summed over all processes, without a loss scale, in float32
or wider, and zero for every task that takes no part in the step (absent, not finite, or with a
gradient of zero). The engine measures these once, for all rules; a rule knows of none of that.

========================== =========================================== ==========================
kind                       gives                                       for example
========================== =========================================== ==========================
:class:`Weighting`         weights of the task gradients               RotoGrad's scaling
:class:`GramianWeighting`  the same, from inner products alone         MGDA, PCGrad, IMTL-G
:class:`Combining`         the combination itself, entry by entry      GradDrop
:class:`LossWeighting`     factors of the losses, heads included       uncertainty, DWA, GradNorm
========================== =========================================== ==========================

A rule is a module: its state is in buffers, what the second optimiser trains in parameters. It can
be called on a plain matrix, one task gradient per row: ``PCGrad()(G)``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rotograd_cli.linalg.gradients import divide_or_zero, norms_of, without_rounding


@dataclass(frozen=True)
class Losses:
    """The task losses of one step."""

    values: Tensor
    """Losses of the whole optimiser step as far as this pass tells, detached, shape ``[K]``; 0 for
    an absent task."""
    present: Tensor
    """Tasks with a loss in this pass, boolean, shape ``[K]``."""
    accumulating: bool = False
    """True for every micro-batch of an optimiser step but the last."""


@dataclass(frozen=True)
class Statistics:
    """What is measured of the task gradients of one step."""

    losses: Losses
    """The losses, those of tasks that take no part included."""
    present: Tensor
    """Tasks that take part, boolean, shape ``[K]``: their gradient is finite and not zero."""
    norms: Tensor
    """Norms of the task gradients, shape ``[K]``; 0 for tasks that take no part."""
    cosines: Callable[[], tuple[Tensor, Tensor, Tensor]]
    """Brings three tensors to the host in one transfer, in float64: the inner products of the
    directions ``[K, K]``, the norms ``[K]`` and which tasks take part ``[K]``."""
    norms_of: Callable[[Tensor], Tensor]
    r"""Norms of combinations :math:`\sum_k c_{rk} g_k` for weights ``[r, K]``, shape ``[r]``."""
    uniform: Callable[[Tensor], Tensor]
    """Numbers drawn from [0, 1), of the shape of the tensor: entries of the features."""

    @classmethod
    def of(cls, G: Tensor, losses: Tensor | None = None) -> "Statistics":
        """Statistics of a plain matrix.

        Args:
            G: One finite task gradient per row, float32 or wider, shape ``[K, D]``.
            losses: Task losses, shape ``[K]``; None takes 1 for each.

        Returns:
            The statistics; rows of zeros take no part.
        """
        norms = norms_of(G.unbind())
        everyone = torch.ones_like(norms, dtype=torch.bool)
        values = torch.ones_like(norms) if losses is None else losses
        present = norms >= torch.finfo(norms.dtype).tiny  # the reciprocal of less overflows

        def cosines() -> tuple[Tensor, Tensor, Tensor]:
            units = divide_or_zero(G, norms.unsqueeze(1))  # so that no product overflows
            return (units @ units.mT).double().cpu(), norms.double().cpu(), present.cpu()

        return cls(
            losses=Losses(values, everyone),
            present=present,
            norms=torch.where(present, norms, 0),
            cosines=cosines,
            norms_of=lambda weights: norms_of((weights @ G).unbind()),
            uniform=torch.rand_like,
        )

    def gramian(self) -> tuple[Tensor, Tensor]:
        """Return the inner products of the gradients that take part; waits for the device.

        Combinations of the directions that are zero but for rounding count as zero, so that
        gradients that are linearly dependent are so in float32 too.

        Returns:
            The Gramian in units of the largest squared norm, float64 on the host, shape ``[k, k]``,
            and the indices of its tasks, shape ``[k]``.
        """
        cosines, norms, present = self.cosines()
        tasks = present.nonzero().flatten()
        if len(tasks) == 0:
            return cosines.new_zeros(0, 0), tasks
        lengths = norms[tasks]
        lengths = (lengths / lengths.amax()).clamp_min(1e-100)  # so that no square is zero
        tolerance = 4 * len(tasks) * torch.finfo(self.norms.dtype).eps
        clean = without_rounding(cosines[tasks][:, tasks], tolerance)
        return clean * (lengths.unsqueeze(1) * lengths), tasks


class Rule(nn.Module, ABC):
    """Base of the four kinds; see the module."""

    num_device_waits: ClassVar[int] = 0
    """Transfers to the host in one step; each waits for the device."""

    plain_for_one_task: ClassVar[bool] = True
    """Whether one task alone is trained as without the rule."""

    permutation_equivariant: ClassVar[bool] = True
    """Whether the order of the tasks does not matter, from the same random numbers."""

    def __init__(self) -> None:
        super().__init__()

    @torch.no_grad()
    def forward(self, G: Tensor, losses: Tensor | None = None) -> Tensor:
        """Combine the rows of a plain matrix. State advances as in a step; nothing is learned.

        Args:
            G: One finite task gradient per row, shape ``[K, D]``; zero rows take no part.
            losses: Task losses, shape ``[K]``, for rules that look at them; None takes 1 for each.

        Returns:
            The combined gradient in float32 or wider, shape ``[D]``.
        """
        G = G.to(torch.promote_types(G.dtype, torch.float32))
        return self.combine(G, Statistics.of(G, losses))

    @abstractmethod
    def combine(self, G: Tensor, s: Statistics) -> Tensor:
        """Combine the gradients.

        Args:
            G: This process's part of the task gradients, zero rows for tasks that take no part,
                shape ``[K, D]``.
            s: The statistics of the step.

        Returns:
            This process's part of the combination, shape ``[D]``.
        """

    def diagnostics(self) -> Mapping[str, Tensor]:
        """Numbers of each task worth recording, by name, each of shape ``[K]``; none by default."""
        return {}

    def refresh(self) -> None:
        """Called where waiting for the device is allowed, once per logging step; does nothing."""

    def end_epoch(self) -> None:
        """Called after the last step of an epoch; does nothing by default."""


class Weighting(Rule):
    r"""The backbone receives :math:`\sum_k w_k g_k`; the heads get the plain losses."""

    @abstractmethod
    def weights(self, s: Statistics) -> Tensor:
        """Weights of the task gradients, shape ``[K]``."""

    def combine(self, G: Tensor, s: Statistics) -> Tensor:
        """Return the weighted sum, shape ``[D]``."""
        return self.weights(s) @ G

    def learn(
        self, s: Statistics, weights: Tensor, mean_norm: Tensor
    ) -> Mapping[nn.Parameter, Tensor]:
        r"""Return the gradients of the rule's own parameters; a rule without any is not asked.

        Args:
            s: The statistics of the step.
            weights: What :meth:`weights` returned, shape ``[K]``.
            mean_norm: Norm of the combination over the number of tasks that take part, scalar.

        Returns:
            Gradient by parameter.
        """
        return {}


class GramianWeighting(Weighting):
    """A weighting that needs the inner products of the task gradients alone.

    The K x K matrix goes to the host in float64, in one transfer of K² + 2K numbers. A single task
    that takes part gets the weight 1.
    """

    num_device_waits: ClassVar[int] = 1

    @abstractmethod
    def weights_of(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """Weights of the tasks that take part.

        Args:
            gramian: Inner products of at least two gradients, none of them zero, the largest
                squared norm 1; float64 on the host, shape ``[k, k]``.
            tasks: Indices of these tasks, on the host, shape ``[k]``.

        Returns:
            Weights, shape ``[k]``.
        """

    def weights(self, s: Statistics) -> Tensor:
        """Return the weights of all tasks, shape ``[K]``; 0 for those that take no part."""
        return weights_from_gramian(s, self.weights_of)


def weights_from_gramian(s: Statistics, weights_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the weights of all tasks, from those of the tasks that take part.

    Args:
        s: The statistics of the step.
        weights_of: See :meth:`GramianWeighting.weights_of`.

    Returns:
        Shape ``[K]``: 0 for tasks that take no part, 1 for one alone.
    """
    gramian, tasks = s.gramian()
    weights = gramian.new_zeros(len(s.norms))
    if len(tasks) == 1:
        weights[tasks] = 1
    elif len(tasks) > 1:
        weights[tasks] = weights_of(gramian, tasks)
    return weights.to(s.norms.device, s.norms.dtype, non_blocking=True)


class Combining(Rule):
    """A rule that looks at every entry of the gradients; the heads get the plain losses."""


class LossWeighting(Rule):
    r"""Everything is trained by :math:`\sum_k c_k L_k`, the heads too."""

    sees_gradients: ClassVar[bool] = False
    """Whether :meth:`learn_from_gradients` is to be called; measuring the norms costs a little."""

    needs_losses_after_update: ClassVar[bool] = False
    """Whether :meth:`after_update` is to be called, which costs one more forward pass a step."""

    @abstractmethod
    def factors(self, losses: Losses) -> Tensor:
        """Factors of the losses, without a gradient, shape ``[K]``."""

    def combine(self, G: Tensor, s: Statistics) -> Tensor:
        """Return what autograd makes of the weighted losses, shape ``[D]``."""
        return self.factors(s.losses).to(G.dtype) @ G

    def learn(self, losses: Losses) -> Mapping[nn.Parameter, Tensor]:
        """Return gradients of the rule's own parameters that depend on the losses of a step alone.

        Args:
            losses: The losses.

        Returns:
            Gradient by parameter.
        """
        return {}

    def learn_from_gradients(self, s: Statistics, factors: Tensor) -> Mapping[nn.Parameter, Tensor]:
        """Return gradients of the rule's own parameters that depend on those of the tasks.

        Args:
            s: The statistics of the task gradients, without the factors.
            factors: What :meth:`factors` returned, shape ``[K]``.

        Returns:
            Gradient by parameter.
        """
        return {}

    def after_update(
        self, before: Tensor, after: Tensor, present: Tensor
    ) -> Mapping[nn.Parameter, Tensor]:
        """Return gradients of the rule's parameters between the network's update and the rule's.

        Args:
            before: Task losses of the whole batch, shape ``[K]``; 0 for an absent task.
            after: The same of the same batch after the network's update.
            present: Tasks with a loss, boolean, shape ``[K]``.

        Returns:
            Gradient by parameter.
        """
        return {}
