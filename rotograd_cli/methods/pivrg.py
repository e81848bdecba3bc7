"""PIVRG: fair gains, with more for tasks that lag behind networks of their own."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.fairgrad import fair_weights
from rotograd_cli.methods.parts import check_task_names
from rotograd_cli.methods.rule import Evaluation, GramianWeighting, Measured

Baselines = Mapping[str, Mapping[str, float]]


class PIVRG(GramianWeighting):
    r"""Weights :math:`w>0` with :math:`G w = \sqrt{p/w}`, G the Gramian.

    .. math::
        p = k\,\mathrm{softmax}(\Delta/\tau), \qquad
        \tau = \max\Bigl(\frac{\max\Delta-\min\Delta}{\log b}, \tau_0\Bigr)

    over the k tasks that take part, so that no p is more than b times another. :math:`\Delta_k` is
    how much worse than a network for task k alone the last evaluation of the validation split was,
    in percent, the mean over the task's metrics that ``baselines`` names. Before the first
    evaluation, and for a task whose metrics are not finite, it is 0 or what it was. G is in units
    of the largest squared norm, and the solver is that of
    :class:`~rotograd_cli.methods.fairgrad.FairGrad`, whose solution with :math:`\alpha=2` this is
    where all drops are equal. The authors' code multiplies the step by K.

    Args:
        num_tasks: Number K of tasks.
        task_names: Names of the K tasks.
        baselines: What a network for each task alone reaches: by task, value by metric, in the
            units of ``metrics.jsonl``. Needed once something is evaluated.
        bound: b, the largest ratio of two :math:`p_k`.
        min_temperature: :math:`\tau_0`, in percent.

    References:
        Qin et al., "Revisiting Fairness in Multitask Learning: A Performance-Driven Approach for
        Variance Reduction", CVPR 2025, and its code.
    """

    permutation_equivariant: ClassVar[bool] = False  # only as exactly as the solver is

    @checked
    def __init__(
        self,
        *,
        num_tasks: int,
        task_names: Sequence[str] | None = None,
        baselines: Baselines | None = None,
        bound: Annotated[float, Gt(1), Lt(math.inf)] = 2.0,
        min_temperature: Annotated[float, Gt(0), Lt(math.inf)] = 10.0,
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.task_names = task_names or [str(k) for k in range(num_tasks)]
        self.baselines = baselines or {}
        check_task_names("baselines", self.baselines, self.task_names)
        self.bound = bound
        self.min_temperature = min_temperature
        # on the host, where the solver is: a buffer would have to be fetched from the device
        self._drops = torch.zeros(num_tasks, dtype=torch.float64)

    def observe_evaluation(self, evaluation: Evaluation) -> None:
        """Compare the metrics with those of networks for one task each.

        Raises:
            ConfigError: If a task has no baseline, or one that is no metric of it or 0.
        """
        for k, (name, metrics) in enumerate(zip(self.task_names, evaluation, strict=True)):
            drop = self._drop(name, metrics)
            if math.isfinite(drop):
                self._drops[k] = drop

    def weights_of(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """Weights > 0, shape ``[k]``."""
        return fair_weights(gramian, 2.0, self.shares(tasks))

    def shares(self, tasks: Tensor) -> Tensor:
        """Return p of some tasks, float64 on the host, shape ``[k]``."""
        drops = self._drops[tasks]
        spread = float(drops.max() - drops.min())
        temperature = max(spread / math.log(self.bound), self.min_temperature)
        return len(drops) * (drops / temperature).softmax(0)

    def diagnostics(self) -> Mapping[str, Tensor]:
        """The drops at the last evaluation, in percent."""
        return {"drop": self._drops.clone()}

    def _drop(self, name: str, metrics: Mapping[str, Measured]) -> float:
        """How much worse than alone a task is, in percent."""
        reference = self.baselines.get(name)
        if not reference:
            raise ConfigError(
                f"`baselines.{name}` must hold what a network for task {name!r} alone reaches, got "
                f"nothing; add +method.baselines.{name}.{next(iter(metrics))}=VALUE."
            )
        for metric, value in reference.items():
            if metric not in metrics or value == 0:
                raise ConfigError(
                    f"`baselines.{name}.{metric}` must be a metric of task {name!r} "
                    f"({', '.join(metrics)}) that is not 0, got {value}; correct it."
                )
        drops = [_worse(metrics[metric], value) for metric, value in reference.items()]
        return 100 * sum(drops) / len(drops)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the drops, shape ``[K]``."""
        return {"drops": self._drops.clone()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self._drops = state["drops"].clone().cpu()


def _worse(measured: Measured, reference: float) -> float:
    difference = measured.value - reference
    return (difference if measured.better == "lower" else -difference) / abs(reference)
