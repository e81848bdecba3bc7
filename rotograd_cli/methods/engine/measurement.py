"""What is recorded of the gradients of one optimiser step; ``docs/diagnostics.md`` has the list."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from rotograd_cli.linalg import agreement
from rotograd_cli.methods.rotation.features import RotatedFeatures
from rotograd_cli.methods.rotation.objective import alignment_losses
from rotograd_cli.methods.rotation.task_gradients import MeasurableGradients
from rotograd_cli.methods.statistics import Statistics

Level = Literal["basic", "full"]


@dataclass(frozen=True)
class Diagnostics:
    """Numbers of one step, on the host in float64; NaN where there is none."""

    of_tasks: Mapping[str, Tensor]
    """By name, shape ``[K]``."""
    of_pairs: Mapping[str, Tensor]
    """By name, symmetric, shape ``[K, K]``."""
    of_step: Mapping[str, float]
    """By name."""


@dataclass
class Measurement:
    r"""Inner products of one step's gradients, added up over its micro-batches.

    The micro-batches of a step, and the ranks, have different examples, so the features' gradients
    of the whole step are those of its parts one below the other: inner products add up. All is
    kept on the device until :meth:`read`.

    Args:
        level: ``full`` looks at the rotations as matrices too.
    """

    level: Level
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _rotations: dict[str, Tensor] = field(default_factory=dict)
    _reduction: float = 0.0

    def clear(self) -> None:
        """Forget everything: the step is taken again."""
        self._sums = {}
        self._rotations = {}

    def add(
        self,
        s: Statistics,
        applied: Tensor,
        weights: Tensor | None,
        factors: Tensor | None = None,
    ) -> None:
        r"""Add a micro-batch.

        :math:`g_k` is the gradient of the task's loss without its factor. Where a task's gradient
        is not finite, all that depends on it is NaN.

        Args:
            s: Statistics of the gradients, which have the factors of their losses.
            applied: What the backbone receives, this process's part.
            weights: Of the gradients, which have the factors of their losses; None for a rule that
                has none.
            factors: Of the losses, where the rule weighs them.
        """
        norms = _norms(s, factors)
        length, cosines_to_update = s.length_and_cosines(applied)
        length = length.double()
        given = weights if factors is None else factors
        if weights is not None and factors is not None:
            given = weights * factors
        weight = torch.full_like(norms, torch.nan) if given is None else given.double()
        self._add("gramian", _gramian(s.cosines(), norms))
        self._add("with_update", cosines_to_update.double() * norms * length)
        self._add("update", length.square())
        self._add("weighted", weight * norms.square())
        self._add("present", s.losses.present.double())

    def add_rotated(
        self,
        rotated: RotatedFeatures,
        s: Statistics,
        at_inputs: MeasurableGradients,
        factors: Tensor | None,
        reduction: float,
    ) -> None:
        """Add the part of a micro-batch that methods with rotations have besides.

        Args:
            rotated: Its rotations, the same in all micro-batches.
            s: Statistics of the gradients after the rotations.
            at_inputs: The gradients before the rotations; some are made zero.
            factors: Of the losses, where the rule weighs them.
            reduction: Factor of the alignment objective.
        """
        self._add("before", _gramian(s.cosines(at_inputs), _norms(s, factors)))
        if rotated.aligns:
            self._add("aligned", _gramian(s.cosines(), _norms(s, None)))
            self._reduction = reduction
        if not self._rotations:
            self._rotations = rotated.rotations.angles()
            if self.level == "full":
                self._rotations |= rotated.rotations.distances()

    def _add(self, name: str, value: Tensor) -> None:
        before = self._sums.get(name)
        self._sums[name] = value if before is None else before + value

    def read(self) -> Diagnostics | None:
        """Return the numbers of the step; waits for the device, once.

        Returns:
            None if nothing was measured: the step was skipped, or does not tell the tasks apart.
        """
        if not self._sums:
            return None
        sums = _to_host({**self._sums, **self._rotations})
        gramian = _without_absent(sums["gramian"], sums["present"])
        cosines = agreement.cosines(gramian)
        squares = gramian.diagonal()
        of_tasks = {
            "grad_norm": squares.sqrt(),
            "weight": sums["weighted"] / squares,
            "cosine_to_update": _cosine(sums["with_update"], squares, sums["update"]),
            **{name: sums[name] for name in self._rotations},
        }
        of_pairs = {"cosine": cosines}
        of_step = {
            "rate": agreement.conflict_rate(cosines),
            "mean_cosine": agreement.mean_cosine(cosines),
            "magnitude_similarity": agreement.magnitude_similarity(gramian),
        }
        if "before" in sums:
            before = agreement.cosines(_without_absent(sums["before"], sums["present"]))
            of_pairs["cosine_before"] = before
            of_step["rate_before"] = agreement.conflict_rate(before)
            of_step["mean_cosine_before"] = agreement.mean_cosine(before)
        if "aligned" in sums:
            of_tasks["rotation_loss"] = alignment_losses(sums["aligned"], self._reduction)
        return Diagnostics(of_tasks, of_pairs, of_step)


def _norms(s: Statistics, factors: Tensor | None) -> Tensor:
    """Return norms of the gradients of the losses without factors, NaN where not finite, ``[K]``.

    Those of a negative factor are negative, and so turn the cosines.
    """
    norms = torch.where(s.finite, s.norms.double(), torch.nan)
    return norms if factors is None else norms / factors.double()


def _gramian(cosines: Tensor, norms: Tensor) -> Tensor:
    """Return inner products whose diagonal is exactly that of the norms."""
    gramian = cosines.double() * norms.unsqueeze(1) * norms
    gramian.diagonal().copy_(norms.square())
    return gramian


def _without_absent(gramian: Tensor, present: Tensor) -> Tensor:
    """Make NaN what belongs to tasks without a loss in the step."""
    is_absent = present == 0
    return gramian.masked_fill(is_absent.unsqueeze(1) | is_absent, torch.nan)


def _cosine(products: Tensor, squares: Tensor, update_square: Tensor) -> Tensor:
    return (products / (squares.sqrt() * update_square.sqrt())).clamp(-1, 1)


def _to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy small tensors in one transfer, to float64."""
    flat = torch.cat([tensor.double().flatten() for tensor in tensors.values()]).cpu()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors.values()])
    pairs = zip(tensors.items(), parts, strict=True)
    return {name: part.view(tensor.shape) for (name, tensor), part in pairs}
