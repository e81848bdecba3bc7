"""The K rotations of a method: one stacked parameter over constant bases."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import geotorch
import torch
from annotated_types import Ge
from torch import Tensor, nn

from rotograd_cli.bounds import checked
from rotograd_cli.errors import CheckpointError, ShapeError
from rotograd_cli.linalg import devices
from rotograd_cli.linalg.rotations import (
    geodesic_distances,
    haar_rotations,
    orthogonality_errors,
)
from rotograd_cli.linalg.triangle import Triangle, packed
from rotograd_cli.methods.rotation import holding, plan
from rotograd_cli.methods.rotation.constants import FoldedRotations, Inputs, WholeRotations
from rotograd_cli.methods.rotation.maps import MAPS, ExponentialMap, RotationMap
from rotograd_cli.methods.rotation.plan import NormPlan, Workspace, lower_norms, parts
from rotograd_cli.ranks.base import ONE, Ranks

T = TypeVar("T")
RotationInit = Literal["haar", "identity"]

_ROUNDING = 3e-5  # of bases in float32, several times what a large one is off by


class Rotations(nn.Module):
    r"""K trainable rotations :math:`R_k = B_k\,\psi(A_k)` of size m; :math:`A_k = 0` at the start.

    The bases B are constant buffers; the free parameters X, shape ``[K, m (m - 1) / 2]``, are the
    numbers below the diagonal of A, row by row: a number for every degree of freedom.

    :meth:`whole` and :meth:`fold` compute from X and B in every call. Inside
    :func:`~rotograd_cli.methods.rotation.holding.cached` the rotations are computed once.

    How many terms a series needs depends on the norms of A. The CPU reads them in every step. On an
    accelerator reading means waiting: the norm is read after a switch of the mode and by
    :meth:`refresh`, and the series planned for twice that; a norm that outgrows its plan in between
    makes the results NaN, never inexact.

    Bases must be orthogonal. The mean of several bases is refused where a state is loaded and where
    an evaluation begins, and with ``rebase_every`` in every pass on the CPU: one product with a
    random vector finds it. Averages of models (EMA, SWA) therefore need ``rebase_every=None``: with
    a constant base the mean of the free parameters belongs to a rotation, without one it means
    nothing. Where the parameters alone are averaged (``AveragedModel`` of torch, by default), the
    base stays orthogonal, and nothing can recognise that.

    Where several processes train one model (:attr:`ranks`), each computes the whole rotations of
    its share of the tasks and tells the others, in training; so too for the gradients. Evaluations,
    in which processes are not in step, and small rotations are computed by everyone.

    Args:
        num_tasks: Number K of tasks.
        size: m.
        init: ``haar`` draws every B from the uniform measure on SO(m), what the authors' code does;
            ``identity`` starts without rotation, which is another algorithm.
        rotation_map: :math:`\psi`: ``expm``, the authors' choice, or ``cayley``, another algorithm
            with the same fixed points.
        rebase_every: Optimiser steps after which B becomes R and A becomes 0 ("dynamic
            trivialisation"), another algorithm for every optimiser with memory; None never does.

    Raises:
        ConfigError: If an option is out of range.

    References:
        Lezcano-Casado, "Trivializations for Gradient-Based Optimization on Manifolds", NeurIPS
        2019.
    """

    @checked
    def __init__(
        self,
        num_tasks: int,
        size: int,
        *,
        init: RotationInit = "haar",
        rotation_map: RotationMap = "expm",
        rebase_every: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.map = MAPS[rotation_map]()
        self.rebase_every = rebase_every
        self.steps_since_rebase = 0
        place = torch.get_default_device()  # under torch.device("meta") nothing can be drawn
        with torch.device("cpu"):
            start = haar_rotations(num_tasks, size) if init == "haar" else torch.eye(size)
            start = start.to(torch.get_default_dtype()).expand(num_tasks, -1, -1)
            self.manifold = _manifold(start, self.map.differentiable).to(place)
            self.triangle = Triangle(size).to(place)
        self.free_parameters = nn.Parameter(torch.zeros(num_tasks, size * (size - 1) // 2))
        self.ranks: Ranks = ONE
        self._plan = NormPlan()
        self._workspace = Workspace()
        self.register_load_state_dict_post_hook(_check_loaded)  # type: ignore[no-untyped-call]

    @property
    def base(self) -> Tensor:
        """B, shape ``[K, m, m]``, a buffer of geotorch's."""
        return self.manifold.get_buffer("base")

    @property
    def matrices(self) -> Tensor:
        """The rotations R, shape ``[K, m, m]``, differentiable in the free parameters X."""
        A = self.triangle.skew(self.free_parameters)
        with torch.autocast(A.device.type, enabled=False):
            if holding.is_traced():
                return self.base @ self.map.differentiable(A)
            self.check_bases()
            matrices: Tensor = self.manifold(A)  # which reads the lower triangle
        return matrices

    # ---- constants of one pass

    def whole(self) -> WholeRotations:
        """Return the rotations as matrices, for any head."""
        K, m = self.base.shape[:2]
        shares = self.training and K * m**3 >= plan.SHARED_FROM
        ranks = self.ranks if shares else ONE
        return self._constant("whole", lambda: WholeRotations(self._inputs(), ranks))

    def of_task(self, task: int) -> Tensor:
        """Return one rotation as a constant, shape ``[1, m, m]``."""
        one = slice(task, task + 1)
        if holding.is_traced():
            return self.matrices[one].detach()
        if holding.is_holding():
            return self.whole().R[one]
        return self._constant("one", lambda: WholeRotations(self._inputs(one)).R)

    def _constant(self, name: str, compute: Callable[[], T]) -> T:
        return holding.constant(self, name, (self.free_parameters, self.base), compute)

    def fold(self, rows: Tensor) -> FoldedRotations:
        """Multiply rows by rotations, for heads that begin with a linear layer.

        Args:
            rows: The rotated columns of the layers' weights, shape ``[K, o, m]``.

        Returns:
            The folded rows.
        """
        return FoldedRotations(self._inputs(), rows, self._workspace)

    def _inputs(self, tasks: slice = slice(None)) -> Inputs:
        X = self.free_parameters
        if self.rebase_every is not None and devices.reads_are_free(X.device):
            # only bases that change can be averaged into something else; the check reads numbers
            self.check_bases()
        planned = self._plan.norm(X)
        return Inputs(X.detach()[tasks], self.base[tasks], self.triangle, self.map, planned)

    # ---- what is recorded

    @torch.no_grad()
    def angles(self) -> dict[str, Tensor]:
        r"""Return how far every rotation has turned since its base, in degrees, shape ``[K]``.

        The length :math:`\lVert A_k\rVert_F/\sqrt2` of the geodesic
        :math:`t\mapsto B_k e^{tA_k}` from :math:`B_k` to :math:`R_k`. It is the geodesic distance
        as long as no plane has turned by more than 180 degrees, surely up to a length of 180;
        beyond, another way is shorter (:meth:`distances`). Other maps than the exponential describe
        no geodesic and have no such number.
        """
        if not isinstance(self.map, ExponentialMap):
            return {}
        return {"rotation_angle": lower_norms(self.free_parameters).rad2deg()}

    @torch.no_grad()
    def distances(self) -> dict[str, Tensor]:
        r"""Return distances and errors of the rotations as matrices, shape ``[K]``; takes long.

        Geodesic distances (:func:`~rotograd_cli.linalg.rotations.geodesic_distances`) from the
        identity and from the bases, in degrees, and :math:`\lVert R_k^\top R_k - I\rVert_F`.
        """
        inputs = Inputs(self.free_parameters, self.base, self.triangle, self.map, None)
        pairs = zip(WholeRotations(inputs).R.double(), self.base.double(), strict=True)
        rows = [_distances(R, B) for R, B in pairs]  # one by one: batched LAPACK can hang
        names = ("rotation_angle_from_identity", "rotation_distance", "orthogonality_error")
        return dict(zip(names, torch.stack(rows).unbind(1), strict=True))

    # ---- state

    @property
    def planned_norm(self) -> float | None:
        """The norm that accelerators compute for; a resumed run must go on with that of the run."""
        return self._plan.planned

    @planned_norm.setter
    def planned_norm(self, norm: float | None) -> None:
        self._plan.planned = norm

    @torch.no_grad()
    def check_bases(self) -> None:
        """Refuse bases that are not orthogonal, which reads a number of each.

        Raises:
            CheckpointError: If one is not.
        """
        if self.base.is_meta:
            return
        B = plan.wide(self.base)
        x = torch.randn(self.size, generator=torch.Generator().manual_seed(0)).to(B)
        with torch.autocast(B.device.type, enabled=False):
            back = ((B @ x).unsqueeze(1) @ B).squeeze(1)  # Bᵀ B x
        errors = (back - x).norm(dim=1) / x.norm()
        tolerance = max(_ROUNDING, 4 * torch.finfo(self.base.dtype).eps)
        for k, error in enumerate(errors.tolist()):
            if error >= tolerance:  # NaN, of a run that diverged, shows in every result
                raise CheckpointError(
                    f"`rotations.base[{k}]` must be orthogonal, got one that is off by "
                    f"{error:.1e}; averages of rotations are none: average models (EMA, SWA) that "
                    "were built with rebase_every=null, or load a state that was not averaged."
                )

    def refresh(self) -> None:
        """Plan for the norms as they are now; waits for an accelerator."""
        holding.release(self)  # what an outgrown plan made NaN
        self._plan.forget()
        self._plan.norm(self.free_parameters)

    @torch.no_grad()
    def advance(self) -> None:
        """Re-base where it is due; called before every forward pass in training."""
        holding.keep(self)
        if self.rebase_every is not None and self.steps_since_rebase >= self.rebase_every:
            self.rebase()

    def count_step(self) -> None:
        """Count an optimiser step; called by its last backward pass."""
        self.steps_since_rebase += 1
        holding.suspend(self)  # an optimiser comes next

    @torch.no_grad()
    def rebase(self) -> None:
        r"""Make the current rotations the bases and the free parameters zero.

        The product is polished by one Newton-Schulz step in float64, so that rounding does not add
        up however often this happens.
        """
        R = self.whole().R
        for part in parts(R):
            exact = R[part].double()
            self.base[part] = (1.5 * exact - 0.5 * exact @ exact.mT @ exact).to(R.dtype)
        self.free_parameters.zero_()
        self.steps_since_rebase = 0
        holding.release(self)

    @torch.no_grad()
    def assign(self, rotations: Tensor | Sequence[Tensor]) -> None:
        """Set the rotations: the bases become ``rotations``, the free parameters zero.

        Args:
            rotations: Rotation matrices, shape ``[K, m, m]``, or a sequence of K.

        Raises:
            ShapeError: If the shape differs, or a matrix is not orthogonal with determinant +1.
        """
        R = rotations if isinstance(rotations, Tensor) else torch.stack(list(rotations))
        shape = self.base.shape
        if R.shape != shape:
            raise ShapeError(f"`rotation` must have shape {list(shape)}, got {list(R.shape)}.")
        R = R.detach().to(device="cpu", dtype=torch.float64)
        error = (R.mT @ R - torch.eye(R.shape[-1], dtype=R.dtype)).abs().amax((-2, -1))
        for k, matrix in enumerate(R):
            sign = torch.linalg.slogdet(matrix).sign  # one by one: batched LU can hang on the CPU
            if not (error[k] < 1e-3 and sign > 0):
                raise ShapeError(
                    f"`rotation[{k}]` must be orthogonal with determinant +1, got one with "
                    f"|RᵀR - I| = {error[k]:.1e} and determinant sign {sign:+.0f}; "
                    "orthogonalise it first (torch.linalg.qr)."
                )
        self.base.copy_(R)
        self.free_parameters.zero_()
        self.steps_since_rebase = 0
        holding.release(self)

    def train(self, mode: bool = True) -> "Rotations":
        """Switch the mode; accelerators read the norm anew."""
        self._plan.forget()
        return super().train(mode)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.rebase_every is not None:
            destination[prefix + "steps_since_rebase"] = torch.tensor(self.steps_since_rebase)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self._plan.forget()
        holding.release(self)
        if self.rebase_every is not None:
            self.steps_since_rebase = int(state_dict.pop(prefix + "steps_since_rebase", 0))
        X = prefix + "free_parameters"
        if X in state_dict:
            state_dict[X] = packed(state_dict[X])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "ranks": ONE, "_plan": NormPlan(), "_workspace": Workspace()}


def _distances(R: Tensor, B: Tensor) -> Tensor:
    """Return what :meth:`Rotations.distances` does, for one rotation and its base, ``[3]``."""
    angles = geodesic_distances(torch.stack((R, B.mT @ R))).rad2deg()
    return torch.cat((angles, orthogonality_errors(R.unsqueeze(0))))


def _check_loaded(rotations: Rotations, keys: object) -> None:
    rotations.triangle = Triangle(rotations.size).to(rotations.base.device)  # may have been meta
    rotations.check_bases()


def _manifold(base: Tensor, psi: Callable[[Tensor], Tensor]) -> nn.Module:
    r"""Return the parametrisation :math:`X \mapsto B\,\psi(A)` of SO(m).

    geotorch's constructor samples bases that would be replaced at once, with a batched determinant
    that may hang on the CPU from about ``[2, 512, 512]`` on; so the manifold is built at size 1 and
    given its size and bases afterwards.

    Args:
        base: Rotations B, shape ``[K, m, m]``; a buffer of the result.
        psi: Map from skew matrices A to rotations.

    Returns:
        A module that maps matrices with the lower triangles of A, shape ``[K, m, m]``, to
        rotations.
    """
    with torch.random.fork_rng(devices=[]):
        manifold = geotorch.SO(torch.Size((1, 1)), triv=psi)
    manifold.n = base.shape[-1]
    manifold.tensorial_size = base.shape[:-2]
    manifold.register_buffer("base", base.clone(memory_format=torch.contiguous_format))
    result: nn.Module = manifold
    return result
