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
    _alignment_factor: float | None = None

    def clear(self) -> None:
        """Forget everything: the step is taken again."""
        self._sums = {}
        self._rotations = {}
        self._alignment_factor = None

    def add(
        self,
        s: Statistics,
        applied: Tensor,
        weights: Tensor | None,
        factors: Tensor | None = None,
        at_inputs: MeasurableGradients | None = None,
    ) -> None:
        r"""Add a micro-batch.

        :math:`g_k` is the gradient of the task's loss without its factor. Where a task's gradient
        is not finite, so is all that depends on it.

        Args:
            s: Statistics of the gradients, which have the factors of their losses.
            applied: What the backbone receives, this process's part.
            weights: Of the gradients; None for a rule that has none.
            factors: Of the losses, where the rule weighs them.
            at_inputs: The gradients after the rotations, where there are any.
        """
        weighed = torch.where(s.finite, s.norms.double(), torch.nan)
        norms = weighed if factors is None else weighed / factors.double()
        if factors is not None:
            weights = factors
        cosines = s.cosines().double()
        length, cosines_to_update = s.length_and_cosines(applied)
        length = length.double()
        self._add("gramian", _gramian(cosines, norms))
        self._add("with_update", cosines_to_update.double() * norms * length)
        self._add("update", length.square().reshape(1))
        self._add("present", s.losses.present.double())
        weight = torch.full_like(norms, torch.nan) if weights is None else weights.double()
        self._add("weighted", weight * norms.square())
        if at_inputs is not None:
            self._add("before", _gramian(s.cosines(at_inputs).double(), norms))
            self._add("weighed", _gramian(cosines, weighed))

    def add_rotations(self, rotated: RotatedFeatures, shape: torch.Size, num_parts: int) -> None:
        """Add the rotations that this step was taken with.

        Args:
            rotated: What they are.
            shape: Shape of the features.
            num_parts: Micro-batches of the step.
        """
        self._rotations = rotated.rotations.angles()
        if self.level == "full":
            self._rotations |= rotated.rotations.distances()
        self._alignment_factor = rotated.factor(shape, num_parts) if rotated.aligns else None

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
        if self._alignment_factor is not None:
            of_tasks["rotation_loss"] = alignment_losses(sums["weighed"], self._alignment_factor)
        return Diagnostics(of_tasks, of_pairs, of_step)


def _gramian(cosines: Tensor, norms: Tensor) -> Tensor:
    """Return inner products whose diagonal is exactly that of the norms."""
    gramian = cosines * norms.unsqueeze(1) * norms
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
