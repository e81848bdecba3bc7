"""The authors' package, rotograd 0.1.6.0, made importable: the oracle of the parity tests."""

import sys
import warnings
from types import ModuleType

import torch
from torch.nn.utils import parametrize


def load_reference() -> ModuleType:
    """The package ``rotograd``, with the module that newer geotorch dropped put in its place."""
    sys.modules.setdefault("geotorch.parametrize", parametrize)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import rotograd
    return rotograd


def exact_matrix_exp(A: torch.Tensor) -> torch.Tensor:
    """``matrix_exp`` by its batched path: some torch releases have a wrong unbatched one."""
    return torch.linalg.matrix_exp(torch.stack((A, A)))[0]


def use_exact_exponential(model: torch.nn.Module) -> None:
    """Makes a reference model use :func:`exact_matrix_exp`."""
    for name, parametrization in getattr(model, "parametrizations", {}).items():
        assert name.startswith("rotation_")
        parametrization[0].triv = exact_matrix_exp
