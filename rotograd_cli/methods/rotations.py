"""The K rotations of a method: one stacked parameter, one map per optimiser step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import geotorch
import torch
from torch import Tensor, nn

from rotograd_cli.errors import CheckpointError, ConfigError, ShapeError
from rotograd_cli.linalg.chebyshev import Series, series
from rotograd_cli.linalg.rotations import haar_rotations, skew
from rotograd_cli.methods.trivialisations import MAPS, RotationMap
from rotograd_cli.ranks.base import ONE, Ranks

RotationInit = Literal["haar", "identity"]

_ROUNDING = 3e-5  # of bases in float32, several times what a large one is off by
_SMALLEST_PLAN = 4.0  # norms that an accelerator plans for at least
_SHARED_FROM = 2**24  # K m³ from which ranks share the work: less takes less time than to tell
_CHUNK_BYTES = {"cpu": 2**20, "cuda": 2**28}  # temporaries: in the cache, or a small part of memory


@dataclass(frozen=True)
class FoldedRotations:
    r"""Rotations folded into the first layers of the heads: :math:`W_k R_k` and what led there."""

    weight: Tensor
    r"""Rows :math:`W_k R_k`, shape ``[K, o, m]``."""
    left: Tensor
    """Left factors of the rotation gradient, shape ``[K, q o, m]``."""
    plan: Series
    """The series that they were computed with."""


class Rotations(nn.Module):
    r"""K trainable rotations :math:`R_k = B_k\,\psi(A_k)` of size m; :math:`A_k = 0` at the start.

    geotorch owns the manifold: its ``SO`` holds the bases B and maps the free parameters X (shape
    ``[K, m, m]``, A in the strictly lower triangles) to rotations, with the closed-form map as the
    trivialisation. (It is called directly rather than through ``torch.nn.utils.parametrize``, whose
    modules cannot be pickled.)

    What :meth:`current` and :meth:`fold` need of X is computed once and kept until a free parameter
    or a base changes (its version counter tells), in evaluation too. Code that writes around the
    counter (``p.data.copy_(...)``, or a fused optimiser after a call of :meth:`current` since the
    backward pass) calls :meth:`clear_cache`: the last backward pass of every step does, and so does
    switching between training and evaluation.

    How many terms a series needs depends on the norms of A. The CPU reads them in every step. On an
    accelerator reading means waiting: the norm is read after a switch of the mode and by
    :meth:`refresh`, and the series planned for twice that; a norm that outgrows its plan in between
    makes the results NaN, never inexact.

    Bases must be orthogonal. What changed them (a state dict, or code that averages models) is
    checked at the next use by one product with a random vector, so that the mean of several bases
    is refused. Averages of models (EMA, SWA) therefore need ``rebase_every=None``: with a constant
    base the mean of the free parameters belongs to a rotation, without one it means nothing, even
    where the base is copied and stays orthogonal.

    Where several processes train one model (:attr:`ranks`), each computes the whole rotations of
    its share of the tasks and tells the others, in training; so too for the gradients. Evaluations,
    in which processes are not in step, and small rotations are computed by everyone.

    Args:
        num_tasks: K.
        size: m.
        init: ``haar`` draws every B from the uniform measure on SO(m), what the authors' code does;
            ``identity`` starts without rotation, which is another algorithm.
        map: :math:`\psi`: ``expm``, the authors' choice, or ``cayley``, another algorithm with the
            same fixed points.
        rebase_every: Optimiser steps after which B becomes R and A becomes 0 ("dynamic
            trivialisation"), another algorithm for every optimiser with memory; None never does.

    Raises:
        ConfigError: If an option is out of range.

    References:
        Lezcano-Casado, "Trivializations for Gradient-Based Optimization on Manifolds", NeurIPS
        2019.
    """

    def __init__(
        self,
        num_tasks: int,
        size: int,
        *,
        init: RotationInit = "haar",
        map: RotationMap = "expm",
        rebase_every: int | None = None,
    ) -> None:
        super().__init__()
        if init not in get_args(RotationInit):
            raise ConfigError(f"`init` must be haar or identity, got {init!r}.")
        if map not in MAPS:
            raise ConfigError(f"`rotation_map` must be {' or '.join(MAPS)}, got {map!r}.")
        if rebase_every is not None and rebase_every < 1:
            raise ConfigError(
                f"`rebase_every` must be at least 1 optimiser step or null, got {rebase_every}."
            )
        self.size = size
        self.map = MAPS[map]()
        self.rebase_every = rebase_every
        self.steps_since_rebase = 0
        place = torch.get_default_device()  # under torch.device("meta") nothing can be drawn
        with torch.device("cpu"):
            start = haar_rotations(num_tasks, size) if init == "haar" else torch.eye(size)
            start = start.to(torch.get_default_dtype()).expand(num_tasks, -1, -1)
            self.manifold = _manifold(start, self.map.differentiable).to(place)
        self.free_parameters = nn.Parameter(torch.zeros_like(self.base))
        self._cache: dict[str, tuple[object, Any]] = {}
        self._num_cleared = 0
        self._operand: Tensor | None = None  # memory of the operand, used again in every step
        self._planned: float | None = None
        self._checked: tuple[object, ...] | None = None  # version of the bases found orthogonal
        self.ranks: Ranks = ONE

    @property
    def base(self) -> Tensor:
        """B, shape ``[K, m, m]``, a buffer of geotorch's."""
        base = self.manifold.base
        assert isinstance(base, Tensor)
        return base

    @property
    def matrices(self) -> Tensor:
        """The rotations R, shape ``[K, m, m]``, differentiable in the free parameters X."""
        with torch.autocast(self.base.device.type, enabled=False):
            self.check_bases()
            matrices: Tensor = self.manifold(self.free_parameters)
        return matrices

    @property
    def reads_are_free(self) -> bool:
        """Whether reading a number from the device waits for nothing."""
        return _reads_are_free(self.base.device)

    # ---- any head: whole matrices

    def current(self) -> Tensor:
        """The rotations as constants (no gradient), shape ``[K, m, m]``, cached."""
        return self._matrices_and_bounds()[0]

    @torch.no_grad()
    def gradient_(self, W: Tensor) -> Tensor:
        r"""Gradient of the free parameters, given :math:`W_k = R_k^\top\,\partial L/\partial R_k`.

        Args:
            W: Any matrices with the skew part of :math:`R_k^\top\,\partial L/\partial R_k`, shape
                ``[K, m, m]``. Symmetric parts are ignored: they point off the manifold.
                Overwritten with the result.

        Returns:
            The gradient with respect to X, strictly lower triangular, shape ``[K, m, m]``.
        """
        _, bounds = self._matrices_and_bounds()
        if self._shares:
            self.ranks.reduce_scatter(W)  # of the others' tasks nothing is left
        for part, bound in bounds:
            A = skew(self.free_parameters[part].to(W.dtype))
            W[part] = self.map.pull_back(A, W[part] - W[part].mT, bound)
        return W.tril_(-1)

    def _matrices_and_bounds(self) -> tuple[Tensor, list[tuple[slice, float]]]:
        """The rotations, and the tasks computed together here with a bound of their norms."""

        def compute() -> tuple[Tensor, list[tuple[slice, float]]]:
            self.check_bases()
            R, bounds = torch.empty_like(self.base), []
            planned = self._plan_ahead()
            own = self.ranks.shard(len(R)) if self._shares else None
            for part in self._parts(own):
                A = skew(self._wide(self.free_parameters[part]))
                F, bound = self.map.minus_one(A, planned)
                B = self._wide(self.base[part])
                R[part] = torch.baddbmm(B, B, F)
                bounds.append((part, bound))
            if self._shares:
                self.ranks.all_gather(R)
            return R, bounds

        result: tuple[Tensor, list[tuple[slice, float]]] = self._cached("matrices", compute)
        return result

    @property
    def _shares(self) -> bool:
        """Whether this process computes a part of the rotations for all processes.

        The mode decides, which :meth:`train` forgets everything at.
        """
        K, m = self.base.shape[:2]
        return self.training and self.ranks.size > 1 and K * m**3 >= _SHARED_FROM

    # ---- heads that begin with a linear layer: a few rows

    @torch.no_grad()
    def fold(self, rows: Tensor) -> FoldedRotations:
        r"""Rows times rotations, :math:`W_k R_k`, without forming a rotation.

        Args:
            rows: The rotated columns of the first layers' weights, shape ``[K, o, m]``.

        Returns:
            The rows, and what :meth:`folded_gradient_` takes.
        """
        operand, plan, guard = self._operand_and_plan()
        with torch.autocast(rows.device.type, enabled=False):
            rows = self._wide(rows) @ self._wide(self.base)
            weight, left = self.map.fold(operand, rows * guard, plan)
        return FoldedRotations(weight, left, plan)

    @torch.no_grad()
    def folded_gradient(
        self, folded: FoldedRotations, Q: Tensor, P: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""As :meth:`gradient_` for :math:`W_k = (W_k R_k)^\top Q_k`, and :math:`P_k R_k^\top`.

        Args:
            folded: Result of :meth:`fold` at the same parameters.
            Q: Shape ``[K, o, m]``.
            P: Shape ``[K, o, m]``.

        Returns:
            The gradient with respect to X, strictly lower triangular, shape ``[K, m, m]``, and the
            rows :math:`P_k R_k^\top`, shape ``[K, o, m]``.
        """
        operand, plan, _ = self._operand_and_plan()
        right, turned = self.map.unfold(operand, Q, P, plan)
        left = folded.left
        gradient = torch.bmm(left.mT, right).baddbmm_(right.mT, left, alpha=-1)
        return gradient.tril_(-1), turned @ self._wide(self.base).mT

    def _operand_and_plan(self) -> tuple[Tensor, Series, Tensor | float]:
        def compute() -> tuple[Tensor, Series, Tensor | float]:
            self.check_bases()
            X = self._wide(self.free_parameters)
            if self._operand is None or self._operand.shape != X.shape:
                self._operand = torch.empty_like(X)
            norms = []
            for part in self._parts():
                lower = X[part].tril(-1)
                norms.append(torch.linalg.vector_norm(lower, dim=(1, 2)))
                out = torch.sub(lower, lower.mT, out=self._operand[part])
                operand = self.map.operand(out)
                if operand is not out:
                    out.copy_(operand)
            norm = torch.cat(norms).amax()  # bounds ‖A‖₂: singular values of A come in pairs
            planned = self._plan_ahead()
            if planned is None:
                return self._operand, series(float(norm), X.dtype, X.device), 1.0
            guard = torch.where(norm <= planned, 1.0, torch.nan)
            return self._operand, series(planned, X.dtype, X.device), guard

        result: tuple[Tensor, Series, Tensor | float] = self._cached("operand", compute)
        return result

    # ---- state

    def version(self) -> tuple[object, ...]:
        """Changes whenever a parameter or a base is seen to change, and with the cache cleared."""
        return *_version(self.free_parameters), *_version(self.base), self._num_cleared

    @torch.no_grad()
    def check_bases(self) -> None:
        """Refuses bases that are not orthogonal; does nothing unless they changed since.

        Raises:
            CheckpointError: If one is not.
        """
        version = _version(self.base)
        if self._checked == version or self.base.is_meta:
            return
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.size, generator=generator, dtype=torch.float64).to(self.base.device)
        exact = (B.double() for B in self.base)  # one by one, for their size
        errors = torch.stack([(B.mT @ (B @ x) - x).norm() / x.norm() for B in exact])
        tolerance = max(_ROUNDING, 4 * torch.finfo(self.base.dtype).eps)
        for k, error in enumerate(errors.tolist()):
            if not error < tolerance:
                raise CheckpointError(
                    f"`rotations.base[{k}]` must be orthogonal, got one that is off by "
                    f"{error:.1e}; averages of rotations are none: average models (EMA, SWA) that "
                    "were built with rebase_every=null, or load a state that was not averaged."
                )
        self._checked = version

    def clear_cache(self) -> None:
        """Forgets what was computed, for code that changed a parameter unseen.

        So do layers that rotations are folded into, since :meth:`version` changes.
        """
        self._cache.clear()
        self._num_cleared += 1

    def refresh(self) -> None:
        """Reads the norms anew where plans are kept; waits for the device."""
        self.clear_cache()  # what an outgrown plan made NaN
        self._planned = None
        self._plan_ahead()

    @torch.no_grad()
    def advance(self) -> None:
        """Called before the first forward pass of an optimiser step; re-bases where it is due."""
        if self.rebase_every is not None and self.steps_since_rebase >= self.rebase_every:
            self.rebase()

    def count_step(self) -> None:
        """Called by the last backward pass of an optimiser step."""
        self.steps_since_rebase += 1
        self.clear_cache()  # an optimiser comes next, and fused ones hide their writes

    @torch.no_grad()
    def rebase(self) -> None:
        r"""Makes the current rotations the bases and the free parameters zero.

        The product is polished by one Newton-Schulz step in float64, so that rounding does not add
        up however often this happens.
        """
        R = self.current()
        for part in self._parts():
            exact = R[part].double()
            self.base[part] = (1.5 * exact - 0.5 * exact @ exact.mT @ exact).to(R.dtype)
        self._checked = _version(self.base)
        self.free_parameters.zero_()
        self.steps_since_rebase = 0
        self.clear_cache()

    @torch.no_grad()
    def assign(self, rotations: Tensor | Sequence[Tensor]) -> None:
        """Sets the rotations: the bases become ``rotations``, the free parameters zero.

        Args:
            rotations: Rotation matrices, shape ``[K, m, m]``, or a sequence of K.

        Raises:
            ShapeError: If the shape differs, or a matrix is not orthogonal with determinant +1.
        """
        X = self.free_parameters
        R = rotations if isinstance(rotations, Tensor) else torch.stack(list(rotations))
        if R.shape != X.shape:
            raise ShapeError(f"`rotation` must have shape {list(X.shape)}, got {list(R.shape)}.")
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
        X.zero_()
        self.steps_since_rebase = 0

    def train(self, mode: bool = True) -> "Rotations":
        """Switches the mode and forgets what was computed and planned."""
        self._forget()
        return super().train(mode)

    def _forget(self) -> None:
        self.clear_cache()
        self._operand = self._planned = None

    def _apply(self, *args: Any, **kwargs: Any) -> "Rotations":
        self._forget()  # other tensors may get the identity and version of the old ones
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.rebase_every is not None:
            destination[prefix + "steps_since_rebase"] = torch.tensor(self.steps_since_rebase)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self._forget()  # assign=True replaces the tensors whose versions the cache knows
        if self.rebase_every is not None:
            self.steps_since_rebase = int(state_dict.pop(prefix + "steps_since_rebase", 0))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}, "_operand": None, "ranks": ONE}

    # ---- plumbing

    def _cached(self, name: str, compute: Any) -> Any:
        X, key = self.free_parameters, self.version()
        if name not in self._cache or self._cache[name][0] != key:
            autocast = torch.autocast(X.device.type, enabled=False)
            with torch.inference_mode(False), torch.no_grad(), autocast:
                self._cache[name] = (key, compute())  # later passes may need gradients
        return self._cache[name][1]

    @staticmethod
    def _wide(tensor: Tensor) -> Tensor:
        """At least float32."""
        tensor = tensor.detach()
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

    def _plan_ahead(self) -> float | None:
        """The norm that accelerators plan for; None where reading it waits for nothing."""
        if self.reads_are_free:
            return None
        if self._planned is None:
            X = self._wide(self.free_parameters)
            norm = float(torch.linalg.vector_norm(X.tril(-1), dim=(1, 2)).amax())
            self._planned = max(_SMALLEST_PLAN, 2 * norm)
        return self._planned

    def _parts(self, own: slice | None = None) -> Iterator[slice]:
        """Ranges of tasks that are computed together, so that temporaries stay small."""
        X = self.free_parameters
        own = own or slice(0, len(X))
        bytes_per_task = max(1, X[0].numel() * X.element_size())
        num = max(1, _CHUNK_BYTES.get(X.device.type, 2**28) // bytes_per_task)
        for start in range(own.start, own.stop, num):
            yield slice(start, min(start + num, own.stop))


def _version(tensor: Tensor) -> tuple[object, ...]:
    """Changes whenever the tensor is seen to change."""
    return id(tensor), tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device


def _reads_are_free(device: torch.device) -> bool:
    return device.type == "cpu"  # reading a number there waits for nothing


def _manifold(base: Tensor, trivialisation: Any) -> nn.Module:
    """The manifold SO(m) of geotorch over the given bases.

    Its constructor samples bases that get replaced at once, with a batched determinant that may
    hang on the CPU from about [2, 512, 512] on; so it is built at size 1, then given its size.
    """
    with torch.random.fork_rng(devices=[]):
        manifold: Any = geotorch.SO(torch.Size((1, 1)), triv=trivialisation)
    manifold.n, manifold.tensorial_size = base.shape[-1], base.shape[:-2]
    manifold.register_buffer("base", base.clone(memory_format=torch.contiguous_format))
    result: nn.Module = manifold
    return result
