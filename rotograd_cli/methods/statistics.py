"""What is measured of the task gradients of one step, for every rule: over all ranks, NaN aside."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.linalg import devices
from rotograd_cli.linalg.gradients import divide_or_zero, norms_of, without_rounding
from rotograd_cli.methods.rotation.task_gradients import DenseTaskGradients, MeasurableGradients
from rotograd_cli.ranks.base import ONE, Ranks


@dataclass(frozen=True)
class Losses:
    """The K task losses of one step, over the whole batch: all processes, without a loss scale.

    Nothing is masked but absent tasks: a zero, negative, infinite or NaN loss stays as it is, and
    its task counts as present. Factors must be finite for absent tasks too.

    Attributes:
        values: Losses, detached, float32 or wider, shape ``[K]``; 0 for an absent task. Those of a
            micro-batch stand for the whole optimiser step.
        present: Tasks with a loss in this pass, boolean, shape ``[K]``.
        accumulating: True for every micro-batch of an optimiser step but the last.
    """

    values: Tensor
    present: Tensor
    accumulating: bool = False


class Statistics:
    """Norms and inner products of the K task gradients of one step, over the whole batch.

    A task takes no part if it has no loss, if its loss or gradient is infinite or NaN, or if its
    gradient is zero: there is nothing to combine, and as one more direction or as one more term of
    a mean it would hold up the others.

    Attributes:
        losses: The losses, not masked: those of tasks that take no part are as they came.
        present: Tasks that take part, boolean, shape ``[K]``; other than ``losses.present``, False
            for a gradient that is zero, infinite or NaN.
        norms: Norms of the task gradients, float32 or wider, shape ``[K]``; 0 for tasks that take
            no part.
        finite: Tasks whose loss and gradient are finite, boolean, shape ``[K]``; True for an absent
            task.

    Args:
        G: This process's part of the task gradients. Those of tasks that take no part are made
            zero, in place.
        losses: The task losses.
        ranks: Processes that have the other examples of the batch.
    """

    losses: Losses
    finite: Tensor
    present: Tensor
    norms: Tensor

    def __init__(self, G: MeasurableGradients, losses: Losses, ranks: Ranks = ONE) -> None:
        norms = ranks.norms(G.norms())
        self.losses = losses
        # 0 times a number that is not finite is NaN, which equals nothing
        self.finite = 0 * norms == 0 * losses.values
        # the reciprocal of a smaller norm would overflow
        not_zero = norms >= torch.finfo(norms.dtype).tiny
        self.present = losses.present & self.finite & not_zero
        if not (devices.reads_are_free(norms.device) and bool(self.present.all())):
            G.drop(~self.present)
            norms = torch.where(self.present, norms, 0)
        self.norms = norms
        self._factors: Tensor | None = None  # that G has and the statistics have not
        self._cosines: Tensor | None = None
        self._G = G
        self._ranks = ranks

    @classmethod
    def of(cls, G: Tensor, losses: Tensor | None = None) -> "Statistics":
        """Return the statistics of a plain matrix, which is not changed.

        Args:
            G: One task gradient per row, float32 or wider, shape ``[K, D]``.
            losses: Task losses, shape ``[K]``; None takes 1 for each.
        """
        values = G.new_ones(len(G)) if losses is None else losses
        all_present = torch.ones_like(values, dtype=torch.bool)
        return cls(DenseTaskGradients(G.clone().unbind()), Losses(values, all_present))

    def norms_of(self, weights: Tensor) -> Tensor:
        r"""Return norms of combinations :math:`\sum_k c_k g_k`; ``[..., K]`` becomes ``[...]``."""
        if self._factors is not None:
            weights = divide_or_zero(weights, self._factors)
        sums = self._G.combine(weights).view(-1, *self._G.shape)
        return self._ranks.norms(norms_of(sums.unbind())).view(weights.shape[:-1])

    def cosines(self, G: MeasurableGradients | None = None) -> Tensor:
        """Return the inner products of the directions of the gradients, shape ``[K, K]``.

        Rows and columns of tasks that take no part are 0.

        Args:
            G: The same gradients elsewhere, of the same norms, in whose place they are; those of
                tasks that take no part are made zero. None for the gradients themselves.
        """
        if G is not None:
            G.drop(~self.present)
            return self._ranks.sum(G.cosines(self.norms))
        if self._cosines is None:
            norms_of_G = self.norms if self._factors is None else self.norms * self._factors
            self._cosines = self._ranks.sum(self._G.cosines(norms_of_G))
        return self._cosines

    def length_and_cosines(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the norm of a gradient, a scalar, and its cosines with those of the tasks.

        Args:
            gradient: This process's part of it, of the features' size.

        Returns:
            The norm, and the cosines, shape ``[K]``; 0 where there is no direction.
        """
        length = self._ranks.norms(norms_of([gradient]))
        unit = divide_or_zero(gradient, length)
        return length[0], self._ranks.sum(self._G.cosines_with(unit, self.norms))

    def uniform(self, like: Tensor) -> Tensor:
        """Return numbers drawn from [0, 1), one for each entry of the features.

        Args:
            like: Has the dtype and the shape of the result: entries of the features, ``[D]``.
        """
        entries = like.view(self._G.shape)
        return self._ranks.draw(Tensor.uniform_, entries).view_as(like)

    def without_factors(self, factors: Tensor) -> "Statistics":
        """Return the statistics of the gradients before their losses got these factors.

        A gradient whose factor is 0 is not known any more: it counts as zero.
        """
        result = copy.copy(self)
        result._cosines = None
        result._factors = factors.to(self.norms.dtype)
        result.norms = divide_or_zero(self.norms, result._factors.abs())
        return result

    def gramian(self) -> tuple[Tensor, Tensor]:
        """Return the inner products of the gradients that take part; waits for the device.

        Combinations of the directions that are zero but for rounding count as zero, so that
        gradients that are linearly dependent are so in float32 too.

        Returns:
            The Gramian in units of the largest squared norm, float64 on the host, shape ``[k, k]``,
            and the indices of its tasks, shape ``[k]``.
        """
        present = self.present.to(self.norms.dtype)
        host = devices.to_host(torch.cat((self.cosines(), torch.stack((self.norms, present)))))
        tasks = host[-1].nonzero().flatten()
        cosines = host[tasks][:, tasks]
        if len(tasks) == 0:
            return cosines, tasks
        lengths = host[-2, tasks]
        lengths = (lengths / lengths.amax()).clamp_min(1e-100)  # so that no square is zero
        tolerance = 4 * len(tasks) * torch.finfo(self.norms.dtype).eps
        clean = without_rounding(cosines, tolerance)
        return clean * (lengths.unsqueeze(1) * lengths), tasks
