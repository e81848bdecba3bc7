"""Nash-MTL: the bargaining solution of the tasks."""

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.extras import with_extra
from rotograd_cli.methods.gramian import GramianMethod


class NashMTL(GramianMethod):
    r"""Weights :math:`w>0` with :math:`G w = 1/w`, G the Gramian, by sequential convex programs.

    The solver starts from the weights of the update before, which are in the ``state_dict``. G is
    in units of the largest squared norm, so that the step scales with the gradients as that of
    every other method; the paper's bound on the step's norm is the run's ``train.grad_clip_norm``,
    the same for all methods. Tasks whose gradient is zero get no weight. Needs the extra
    ``nashmtl``.

    Args:
        *args: As :class:`GramianMethod`.
        update_every: Backward passes with the same weights.
        num_iterations: Convex programs per update, at most.
        **kwargs: As :class:`GramianMethod`.

    Raises:
        ConfigError: If an option is out of range or the extra is missing.

    References:
        Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, Algorithm 1 and section
        3.2. Computed by torchjd.
    """

    permutation_equivariant: ClassVar[bool] = False  # the solver stops short of the solution

    def __init__(self, *args: Any, update_every: int, num_iterations: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, value in (("update_every", update_every), ("num_iterations", num_iterations)):
            if value < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {value}.")
        self.update_every, self.num_iterations = update_every, num_iterations
        # on the host, where the solver is: a buffer would have to be fetched from the device
        self._previous = torch.ones(self.num_tasks, dtype=torch.float64)
        self._num_passes = 0
        self._solvers: dict[int, Any] = {}  # by number of tasks
        with_extra(
            lambda: self._solver(self.num_tasks), "Nash-MTL", "nashmtl", "cvxpy and ecos, GPL 3"
        )

    def task_weights(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """Weights of the bargaining solution, shape ``[k]``; those of before between updates."""
        moving = gramian.diagonal() > 0
        chosen = tasks[moving]
        if self._num_passes % self.update_every == 0 and len(chosen) > 0:
            self._previous[chosen] = self._solve(gramian[moving][:, moving], self._previous[chosen])
        self._num_passes += 1
        return torch.where(moving, self._previous[tasks], 0)

    def _solve(self, gramian: Tensor, start: Tensor) -> Tensor:
        """The solver's answer for tasks whose gradients are not zero."""
        if len(start) == 1:
            return gramian[0].rsqrt()
        solver = self._solver(len(start))
        solver.step = 0  # solves at every call
        solver.prvs_alpha = start.numpy().copy()
        eigenvalues, vectors = torch.linalg.eigh(gramian)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are solving a parameterized problem")
            weights: Tensor = solver(vectors * eigenvalues.clamp_min(0).sqrt())
        return weights

    def _solver(self, num_tasks: int) -> Any:
        if num_tasks not in self._solvers:
            from torchjd.aggregation import NashMTL as Aggregator

            self._solvers[num_tasks] = Aggregator(
                num_tasks, max_norm=0.0, update_weights_every=1, optim_niter=self.num_iterations
            ).weighting
        return self._solvers[num_tasks]

    def get_extra_state(self) -> dict[str, Any]:
        """The last weights, shape ``[K]``, and the number of backward passes."""
        return {"previous": self._previous.clone(), "num_passes": self._num_passes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_extra_state` gave."""
        self._previous = state["previous"].clone().cpu()
        self._num_passes = int(state["num_passes"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_solvers": {}}  # compiled problems cannot be copied
