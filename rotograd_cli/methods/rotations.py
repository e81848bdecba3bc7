"""The K rotations of a method: one stacked parameter, one exponential per optimiser step."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import geotorch
import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.linalg.rotations import exp_skew, exp_skew_adjoint, haar_rotations, skew

RotationInit = Literal["haar", "identity"]


class Rotations(nn.Module):
    r"""K trainable rotations :math:`R_k = B_k \exp(A_k)` of size m; :math:`A_k = 0` at the start.

    geotorch owns the manifold: its ``SO`` holds the bases B and maps the free parameters X (shape
    ``[K, m, m]``, A in the strictly lower triangles) to rotations, with
    :func:`~rotograd_cli.linalg.rotations.exp_skew` as the trivialisation. (It is called directly
    rather than through ``torch.nn.utils.parametrize``, whose modules cannot be pickled.)

    What :meth:`current` returns is computed once and kept until a free parameter or a base changes
    (its version counter tells), in evaluation too. Code that writes around the counter
    (``p.data.copy_(...)``, or a fused optimiser after a call of :meth:`current` since the backward
    pass) calls :meth:`clear_cache`: the last backward pass of every step does, and so does
    switching between training and evaluation.

    Args:
        num_tasks: K.
        size: m.
        init: ``haar`` draws every B from the uniform measure on SO(m), what the authors' code does;
            ``identity`` starts without rotation, which is another algorithm.

    Raises:
        ConfigError: If ``init`` is neither.
    """

    def __init__(self, num_tasks: int, size: int, *, init: RotationInit = "haar") -> None:
        super().__init__()
        if init not in get_args(RotationInit):
            raise ConfigError(f"`init` must be haar or identity, got {init!r}.")
        start = haar_rotations(num_tasks, size) if init == "haar" else torch.eye(size)
        self.manifold = _manifold(start.to(torch.get_default_dtype()).expand(num_tasks, -1, -1))
        self.free_parameters = nn.Parameter(torch.zeros_like(self.base))
        self._cache: tuple[object, Tensor] | None = None

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
            matrices: Tensor = self.manifold(self.free_parameters)
        return matrices

    def current(self) -> Tensor:
        """The rotations as constants (no gradient), shape ``[K, m, m]``, cached."""
        X, B = self.free_parameters, self.base
        key = (id(X), X._version, id(B), B._version, X.dtype, X.device)
        if self._cache is None or self._cache[0] != key:
            with torch.inference_mode(False), torch.no_grad():  # later passes may need gradients
                self._cache = (key, self.matrices)
        return self._cache[1]

    def clear_cache(self) -> None:
        """Forgets the computed matrices, for code that changed a parameter unseen."""
        self._cache = None

    @torch.no_grad()
    def gradient(self, W: Tensor) -> Tensor:
        r"""Gradient of the free parameters, given :math:`W_k = R_k^\top\,\partial L/\partial R_k`.

        Args:
            W: Any matrices with the skew part of :math:`R_k^\top\,\partial L/\partial R_k`, shape
                ``[K, m, m]``. Symmetric parts are ignored: they point off the manifold.

        Returns:
            The gradient with respect to X, strictly lower triangular, shape ``[K, m, m]``.
        """
        X = self.free_parameters.to(W.dtype)
        return exp_skew_adjoint(skew(X), W - W.mT).tril(-1)

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

    def train(self, mode: bool = True) -> "Rotations":
        """Switches the mode and forgets the computed matrices."""
        self.clear_cache()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> "Rotations":
        self.clear_cache()  # other tensors may get the identity and version of the old ones
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.clear_cache()  # assign=True replaces the tensors whose versions the cache knows
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}


def _manifold(base: Tensor) -> nn.Module:
    """The manifold SO(m) of geotorch over the given bases.

    Its constructor samples bases that get replaced at once, with a batched determinant that may
    hang on the CPU from about [2, 512, 512] on; so it is built at size 1, then given its size.
    """
    with torch.random.fork_rng(devices=[]):
        manifold: Any = geotorch.SO(torch.Size((1, 1)), triv=exp_skew)
    manifold.n, manifold.tensorial_size = base.shape[-1], base.shape[:-2]
    manifold.register_buffer("base", base.clone(memory_format=torch.contiguous_format))
    result: nn.Module = manifold
    return result
