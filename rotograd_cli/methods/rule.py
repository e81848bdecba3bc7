r"""What a rule is: the mathematics that turns K task gradients into one.

A rule sees :class:`~rotograd_cli.methods.statistics.Statistics` of the whole batch: summed over all
processes, without a loss scale, in float32 or wider, and zero for every task that takes no part in
the step (absent, not finite, or with a gradient of zero). A rule knows of none of that. Its losses,
:class:`~rotograd_cli.methods.statistics.Losses`, are zero where absent and else as they are: a rule
that reads them masks those that it cannot use.

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rotograd_cli.errors import ShapeError
from rotograd_cli.methods.statistics import Losses as Losses
from rotograd_cli.methods.statistics import Statistics as Statistics
from rotograd_cli.tasks.metrics import Better


class Measured(NamedTuple):
    """A loss or metric of one task over a split."""

    value: float
    """NaN where the split has no label."""
    better: Better
    """Whether a higher or a lower value is better."""


Evaluation = Sequence[Mapping[str, Measured]]
"""For every task in order, its ``loss`` and its metrics by name, the one that leads first."""

Learned = Mapping[nn.Parameter, Tensor]
"""Gradients of a rule's own parameters, by parameter."""


class Rule(nn.Module, ABC):
    """Base of the four kinds; see the module."""

    sees_gradients: ClassVar[bool] = True
    """Whether the gradient of every task is needed, rather than the sum that autograd forms."""

    needs_losses_after_update: ClassVar[bool] = False
    """Whether :meth:`learn_from_update` is to be called: one more forward pass in every step."""

    num_device_waits: ClassVar[int] = 0
    """Transfers to the host in one step; each waits for the device."""

    plain_for_one_task: ClassVar[bool] = True
    """Whether one task alone is trained as without the rule."""

    num_tasks: int | None = None
    """K where something is kept for every task; None where any number of tasks will do."""

    permutation_equivariant: ClassVar[bool] = True
    """Whether the order of the tasks does not matter, from the same random numbers."""

    @property
    def needs_parameters(self) -> bool:
        """Whether gradients of different steps meet entry by entry, as those of parameters can."""
        return False

    def __init__(self) -> None:
        super().__init__()  # unlike nn.Module's, takes no options: those in YAML are checked by it

    @torch.no_grad()
    def forward(self, G: Tensor, losses: Tensor | None = None) -> Tensor:
        """Combine the rows of a plain matrix. State advances as in a step; nothing is learned.

        Args:
            G: One task gradient per row, shape ``[K, D]``; rows that are zero, infinite or NaN take
                no part.
            losses: Task losses, shape ``[K]``, for rules that look at them; None takes 1 for each.

        Returns:
            The combined gradient in float32 or wider, shape ``[D]``.

        Raises:
            ShapeError: If the shape or type of an argument, or of what the rule makes, is wrong.
        """
        _check_matrix(G, losses, self.num_tasks)
        G = G.to(torch.promote_types(G.dtype, torch.float32))
        s = Statistics.of(G, losses)
        combined = self.combine(torch.where(s.present.unsqueeze(1), G, 0), s)
        check_returned(self.combine, combined, G.shape[1])
        return combined

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

    def factors(self, losses: Losses) -> Tensor | None:
        """Factors of the losses, without a gradient, shape ``[K]``; None leaves the losses.

        Losses that are zero, infinite or NaN are not masked. A factor must be finite for an absent
        task too, whose loss of 0 is multiplied by it.
        """
        return None

    def learn_from_losses(self, losses: Losses) -> Learned:
        """Return gradients of the rule's own parameters that depend on the losses alone."""
        return {}

    def learn(self, s: Statistics, weights: Tensor) -> Learned:
        """Return gradients of the rule's own parameters that depend on those of the tasks.

        Args:
            s: The statistics of the task gradients, before any factor of the losses.
            weights: The weights of the gradients, or the factors of the losses, shape ``[K]``; ones
                for a rule that has neither.
        """
        return {}

    def learn_from_update(self, before: Tensor, after: Tensor, present: Tensor) -> Learned:
        """Return gradients of the rule's own parameters that depend on the network's update.

        Args:
            before: Task losses of the whole batch, shape ``[K]``; 0 for an absent task.
            after: Those of the same batch after the update.
            present: Tasks with a loss, boolean, shape ``[K]``.
        """
        return {}

    def diagnostics(self) -> Mapping[str, Tensor]:
        """Numbers of each task worth recording, by name, each of shape ``[K]``; none by default."""
        return {}

    def notes(self, num_epochs: int) -> Sequence[str]:
        """Return what readers of a run's results should know of it; nothing by default.

        Args:
            num_epochs: Epochs that the run is planned for.
        """
        return ()

    def refresh(self) -> None:
        """Called where waiting for the device is allowed, once per logging step; does nothing."""

    def end_epoch(self) -> None:
        """Called after the last step of an epoch; does nothing by default."""

    def observe_evaluation(self, evaluation: Evaluation) -> None:
        """Called after every evaluation of the validation split; does nothing by default.

        What is kept of it belongs into the state. Before training it is called once with NaN for
        every value, so that options that do not fit the tasks are refused early.

        Args:
            evaluation: What was measured, the same on all ranks.
        """


def _check_matrix(G: Any, losses: Any, num_tasks: int | None) -> None:
    """Refuse arguments of :meth:`Rule.forward`."""
    is_matrix = isinstance(G, Tensor) and G.dim() == 2 and G.numel() > 0
    if not is_matrix or not G.is_floating_point():
        found = f"{G.dtype} numbers" if is_matrix else shape_or_type(G)
        raise ShapeError(
            "`G` must have shape [K, D], floating-point numbers, with at least one row and column, "
            f"got {found}; pass one task gradient per row."
        )
    if num_tasks not in (None, len(G)):
        raise ShapeError(
            f"`G` must have a row for each of {num_tasks} tasks, got {len(G)} rows; build the rule "
            f"with num_tasks={len(G)}."
        )
    if losses is not None and shape_or_type(losses) != str([len(G)]):
        raise ShapeError(
            f"`losses` must have shape [{len(G)}], got {shape_or_type(losses)}; pass one per row."
        )


def check_returned(function: Any, value: object, num: int) -> None:
    """Refuse what a rule returned if it is no vector of the length that it must have.

    Args:
        function: Bound method of the rule.
        value: What it returned.
        num: The length.

    Raises:
        ShapeError: If it is anything else.
    """
    if not isinstance(value, Tensor) or value.shape != (num,):
        name = f"{type(function.__self__).__name__}.{function.__name__}"
        per = "column of `G`" if function.__name__ == "combine" else "task"
        raise ShapeError(
            f"`{name}` must return a tensor of shape [{num}], one number per {per}, got "
            f"{shape_or_type(value)}."
        )


def shape_or_type(value: object) -> str:
    """Return the shape of a tensor, or the type of anything else, for messages."""
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


class Weighting(Rule):
    r"""The backbone receives :math:`\sum_k w_k g_k`; the heads get the plain losses.

    With :meth:`factors`, the heads get the losses times their factors, and :math:`g_k` is the
    gradient of that product.
    """

    @abstractmethod
    def weights(self, s: Statistics) -> Tensor:
        """Weights of the task gradients, shape ``[K]``."""

    def combine(self, G: Tensor, s: Statistics) -> Tensor:
        """Return the weighted sum, shape ``[D]``."""
        factors = self.factors(s.losses)
        if factors is not None:
            check_returned(self.factors, factors, len(G))
            G = factors.to(G.dtype).unsqueeze(1) * G
            s = Statistics.of(G, s.losses.values)
        return self.combine_scaled(G, s)

    def combine_scaled(self, G: Tensor, s: Statistics) -> Tensor:
        """Combine the gradients of the losses times their factors, shape ``[D]``.

        Networks call this in place of :meth:`weights` where the rule :attr:`needs_parameters`.
        """
        weights = self.weights(s)
        check_returned(self.weights, weights, len(G))
        return weights @ G


class Sum(Weighting):
    """The plain sum of the task gradients: what a network without another rule is trained by."""

    sees_gradients: ClassVar[bool] = False

    def weights(self, s: Statistics) -> Tensor:
        """Return ones, shape ``[K]``."""
        return torch.ones_like(s.norms)


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
        of_tasks = weights_of(gramian, tasks)
        check_returned(weights_of, of_tasks, len(tasks))
        weights[tasks] = of_tasks
    return weights.to(s.norms.device, s.norms.dtype, non_blocking=True)


class Combining(Rule):
    """A rule that looks at every entry of the gradients; the heads get the plain losses."""


class LossWeighting(Rule):
    r"""Everything is trained by :math:`\sum_k c_k L_k`, the heads too."""

    sees_gradients: ClassVar[bool] = False

    @abstractmethod
    def factors(self, losses: Losses) -> Tensor:
        """Factors of the losses, without a gradient, shape ``[K]``; see :meth:`Rule.factors`."""

    def combine(self, G: Tensor, s: Statistics) -> Tensor:
        """Return what autograd makes of the weighted losses, shape ``[D]``."""
        factors = self.factors(s.losses)
        check_returned(self.factors, factors, len(G))
        return factors.to(G.dtype) @ G
