r"""Toy: the paper's two problems of figure 1, in which features are points of the plane.

Each task k wants the shared features, as its head sees them, at a point :math:`o_k`. Its loss is a
function of the offset :math:`u = r_k - o_k` with its minimum at 0:

============= ======================================================= ===========================
problem       loss :math:`\varphi(u)`                                 optima :math:`o_k`
============= ======================================================= ===========================
``convex``    :math:`u_1^2 + 4 u_2^2`                                 (-1, 0) and (1, 0)
``nonconvex`` :math:`\sum_i |u_i| - \sin(3 u_i) / u_i`                (1.5, 1.5) and (-1.5, -1.5)
============= ======================================================= ===========================

No z is best for both tasks. Both optima of a problem have the same norm, so rotations can bring
them together: :math:`R_1 z = o_1` and :math:`R_2 z = o_2` for the same z.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, hash_tensors
from rotograd_cli.tasks import Task, always_labelled, select_tasks
from rotograd_cli.tasks.dense_metrics import SplitMeans
from rotograd_cli.tasks.labels import check_shapes
from rotograd_cli.tasks.metrics import MetricSpec

Problem = Literal["convex", "nonconvex"]
Optimum = tuple[float, float]
TASKS = ("left", "right")
"""Names of the tasks, as in the authors' example."""
OPTIMA: Mapping[Problem, tuple[Optimum, Optimum]] = {
    "convex": ((-1.0, 0.0), (1.0, 0.0)),
    "nonconvex": ((1.5, 1.5), (-1.5, -1.5)),
}
"""Points :math:`o_k` of the two tasks."""


def bowl(offsets: Tensor) -> Tensor:
    """Loss of the convex problem: offsets ``[..., 2]`` to values ``[...]``, 0 at its minimum."""
    return offsets[..., 0].square() + 4 * offsets[..., 1].square()


def waves(offsets: Tensor) -> Tensor:
    """Loss of the nonconvex problem: offsets ``[..., 2]`` to values ``[...]``, -6 at its minimum.

    The authors' example divides by the offset, which is NaN at 0; ``sinc`` has the limit there.
    """
    return (offsets.abs() - 3 * torch.sinc(3 / math.pi * offsets)).sum(-1)


LOSSES: Mapping[Problem, Callable[[Tensor], Tensor]] = {"convex": bowl, "nonconvex": waves}
"""Loss of a point as a function of its offset from the optimum."""


def mean_loss(points: Tensor, optima: Tensor, *, problem: Problem) -> Tensor:
    """Mean loss of points, scalar.

    Args:
        points: What the head returns, shape ``[N, 2]``.
        optima: The task's optimum for every example, shape ``[N, 2]``.
        problem: Which of the two.

    Raises:
        ShapeError: If the shapes differ.
    """
    check_shapes(points, optima)
    return LOSSES[problem](points - optima).mean()


class Toy(MultiTaskDataset):
    """Copies of the input (0, 0), the same in every split; the target of a task is its optimum.

    With the plain point as the only input, training moves a single z. The number of copies changes
    gradients at the features by a factor, and nothing else.

    Args:
        data_dir: Not used: there are no files.
        tasks: Names of the wanted tasks; None for both.
        device: Where the values live.
        problem: ``convex`` or ``nonconvex``.
        num_copies: Number of copies in every split.

    Raises:
        ConfigError: If an option is out of range or a task unknown.

    References:
        Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022,
        figure 1; the authors' example/dataset.py and example/tasks.py (nonconvex). The curvature of
        the convex problem is chosen by us.
    """

    name = "toy"
    input_shape = (2,)
    notes = ("every split holds the same point: test repeats training",)

    @checked
    def __init__(
        self,
        *,
        data_dir: Path,
        tasks: Sequence[str] | None,
        device: torch.device,
        problem: Problem,
        num_copies: AtLeastOne,
    ) -> None:
        del data_dir
        self.num_copies = num_copies
        optima = OPTIMA[problem]
        self._inputs = torch.zeros(num_copies, 2, device=device)
        self._targets = {
            name: torch.tensor(optimum, device=device).repeat(num_copies, 1)
            for name, optimum in zip(TASKS, optima, strict=True)
        }
        self.tasks = select_tasks(always_labelled(make_tasks(problem)), tasks)

    def num_examples(self, split: Split) -> int:
        """Return the number of copies."""
        return self.num_copies

    def batch(self, split: Split, indices: Tensor) -> Batch:
        """Return inputs ``[N, 2]`` and the chosen tasks' optima ``[N, 2]``."""
        indices = indices.to(self._inputs.device)
        targets = {task.name: self._targets[task.name][indices] for task in self.tasks}
        return Batch(self._inputs[indices], targets)

    @property
    def fingerprint(self) -> str:
        """Hash of inputs and optima."""
        return hash_tensors(self._inputs, *self._targets.values())


def make_tasks(problem: Problem) -> list[Task]:
    """Return both tasks of a problem: its loss, and the distance from the optimum."""
    loss = partial(mean_loss, problem=problem)
    return [Task(name, 2, loss, (distance(),)) for name in TASKS]


def distance() -> MetricSpec:
    """Mean Euclidean distance of predictions ``[N, 2]`` from the optimum."""
    create = partial(SplitMeans, _distances, 1)
    return MetricSpec("distance", "lower", create, torch.Tensor.double, value=torch.Tensor.squeeze)


def _distances(points: Tensor, optima: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances ``[1, N, 1]``, all of which count."""
    distances = torch.linalg.vector_norm(points - optima.double(), dim=1, keepdim=True)
    return distances.unsqueeze(0), torch.ones_like(distances, dtype=torch.bool)
