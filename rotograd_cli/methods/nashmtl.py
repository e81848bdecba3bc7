"""Nash-MTL: the bargaining solution of the tasks."""

import logging
import warnings
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.extras import needing_extra
from rotograd_cli.linalg.gradients import directions
from rotograd_cli.methods.rule import GramianWeighting

_LOGGER = logging.getLogger(__name__)
_TOLERANCE = 0.01  # relative error of the equation above which it counts as not solved


class NashMTL(GramianWeighting):
    r"""Weights :math:`w>0` with :math:`G w = 1/w`, G the Gramian, by sequential convex programs.

    With :math:`v_k = w_k \lVert g_k\rVert` and the cosines C this is :math:`C v = 1/v`, so that
    lengths do not matter to the solver. It starts from the v of the update before, which is in the
    ``state_dict``. G is in units of the largest squared norm, so that the step scales with the
    gradients as that of every other method: its norm is :math:`\sqrt K` times the largest. Where
    gradients cancel out and there is no solution, and between updates, it is at most that. Where
    the solver fails, the v from before stays, with a warning in the log the first time. The paper's
    bound on the step's norm is the run's ``train.grad_clip_norm``, the same for all methods. Needs
    the extra ``nashmtl``; FairGrad with :math:`\alpha=1` has the same solution without it, and
    sooner.

    Args:
        num_tasks: Number K of tasks.
        update_every: Backward passes with the same weights.
        num_iterations: Convex programs per update, at most.

    Raises:
        ConfigError: If the extra is missing.

    References:
        Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, Algorithm 1 and section
        3.2. Computed by torchjd.
    """

    permutation_equivariant: ClassVar[bool] = False  # the solver stops short of the solution

    @checked
    def __init__(
        self,
        *,
        num_tasks: int,
        update_every: Annotated[int, Ge(1)] = 1,
        num_iterations: Annotated[int, Ge(1)] = 20,
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.update_every = update_every
        self.num_iterations = num_iterations
        # on the host, where the solver is: a buffer would have to be fetched from the device
        self._previous = torch.ones(num_tasks, dtype=torch.float64)
        self._num_passes = 0
        self._solvers: dict[int, Any] = {}  # by number of tasks
        self._warned = False
        with needing_extra("Nash-MTL", "nashmtl", "cvxpy and ecos, GPL 3"):
            self._solver(num_tasks)

    def weights_of(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """Weights of the bargaining solution, those of the last update in between, ``[k]``."""
        cosines, lengths = directions(gramian)
        if self._num_passes % self.update_every == 0:
            self._previous[tasks] = self._solve(cosines, self._previous[tasks])
        self._num_passes += 1
        v = self._previous[tasks]
        norm = (v @ cosines @ v).clamp_min(0).sqrt()  # of a solution: the root of the number
        shorter: Tensor = (len(tasks) ** 0.5 / norm).clamp_max(1)
        return v / lengths * shorter

    def _solve(self, cosines: Tensor, start: Tensor) -> Tensor:
        """The solver's v."""
        solver = self._solver(len(start))
        solver.step = 0  # solves at every call
        solver.prvs_alpha = start.numpy().copy()
        eigenvalues, vectors = torch.linalg.eigh(cosines)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # _check says what matters
            v: Tensor = solver(vectors * eigenvalues.clamp_min(0).sqrt())
        self._check(cosines, v)
        return v

    def _check(self, cosines: Tensor, v: Tensor) -> None:
        error = float((v * (cosines @ v) - 1).abs().amax())
        if not error < _TOLERANCE and not self._warned:
            _LOGGER.warning(
                "Nash-MTL's solver has missed the solution (relative error %.2g); method=fairgrad "
                "method.alpha=1 solves the same equation. Further misses are not reported.",
                error,
            )
            self._warned = True

    def _solver(self, num_tasks: int) -> Any:
        if num_tasks not in self._solvers:
            from torchjd.aggregation import NashMTL as Aggregator

            self._solvers[num_tasks] = Aggregator(
                num_tasks, max_norm=0.0, update_weights_every=1, optim_niter=self.num_iterations
            ).weighting
        return self._solvers[num_tasks]

    def get_extra_state(self) -> dict[str, Any]:
        """Return the last v, shape ``[K]``, and the number of backward passes."""
        return {"previous": self._previous.clone(), "num_passes": self._num_passes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self._previous = state["previous"].clone().cpu()
        self._num_passes = int(state["num_passes"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_solvers": {}}  # compiled problems cannot be copied
