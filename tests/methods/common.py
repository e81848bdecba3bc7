"""Task gradients for the tests of rules, shape ``[K, 60]``, and the rules with usual options."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rotograd_cli.methods.alignedmtl import AlignedMTL
from rotograd_cli.methods.cagrad import CAGrad
from rotograd_cli.methods.dbmtl import DBMTL
from rotograd_cli.methods.dwa import DynamicWeightAverage
from rotograd_cli.methods.fairgrad import FairGrad
from rotograd_cli.methods.famo import FAMO
from rotograd_cli.methods.fixed import FixedWeights
from rotograd_cli.methods.gls import GeometricLoss
from rotograd_cli.methods.go4align import GO4Align
from rotograd_cli.methods.graddrop import GradDrop
from rotograd_cli.methods.gradnorm import GradNorm, GradNormWeights
from rotograd_cli.methods.imtl import IMTL
from rotograd_cli.methods.imtlg import IMTLG
from rotograd_cli.methods.imtll import IMTLL
from rotograd_cli.methods.mgda import MGDA
from rotograd_cli.methods.nashmtl import NashMTL
from rotograd_cli.methods.pcgrad import PCGrad
from rotograd_cli.methods.pivrg import PIVRG
from rotograd_cli.methods.rlw import RandomLossWeighting
from rotograd_cli.methods.rule import Rule
from rotograd_cli.methods.scaleonly import ScaleOnly
from rotograd_cli.methods.si import ScaleInvariant
from rotograd_cli.methods.stch import STCH
from rotograd_cli.methods.uncertainty import UncertaintyWeighting
from rotograd_cli.methods.upgrad import UPGrad

DIM = 60
# number of tasks, seed, ratio of the longest to the shortest gradient
CASES = [(2, 0, 1.0), (2, 1, 1e3), (3, 2, 10.0), (5, 3, 1.0), (5, 4, 1e3), (12, 5, 30.0)]


def nash(num_tasks: int, update_every: int = 1) -> NashMTL:
    pytest.importorskip("ecos")
    return NashMTL(num_tasks=num_tasks, update_every=update_every, num_iterations=20)


def upgrad() -> UPGrad:
    pytest.importorskip("quadprog")
    return UPGrad()


GRAMIAN: dict[str, Callable[[int], Rule]] = {
    "pcgrad": lambda num: PCGrad(),
    "mgda": lambda num: MGDA(),
    "imtlg": lambda num: IMTLG(),
    "imtl": lambda num: IMTL(num_tasks=num),
    "cagrad": lambda num: CAGrad(c=0.4),
    "alignedmtl": lambda num: AlignedMTL(scale_mode="min"),
    "nashmtl": nash,
    "upgrad": lambda num: upgrad(),
    "fairgrad": lambda num: FairGrad(alpha=2.0),
    "pivrg": lambda num: PIVRG(num_tasks=num),
}
# combine gradients, and do not look at losses that are 1
GRADIENT: dict[str, Callable[[int], Rule]] = {
    **GRAMIAN,
    "graddrop": lambda num: GradDrop(),
    "scaleonly": lambda num: ScaleOnly(num_tasks=num, burn_in_period=2),
    "dbmtl": lambda num: DBMTL(num_tasks=num),
}
LOSSES: dict[str, Callable[[int], Rule]] = {
    "gradnorm": lambda num: GradNorm(num_tasks=num, alpha=0.7, burn_in_period=2),
    "rlw": lambda num: RandomLossWeighting(),
    "uncertainty": lambda num: UncertaintyWeighting(num_tasks=num),
    "dwa": lambda num: DynamicWeightAverage(num_tasks=num, temperature=2.0),
    "famo": lambda num: FAMO(num_tasks=num, gamma=1e-3),
    "fixed": lambda num: FixedWeights(num_tasks=num, weights=[k + 0.5 for k in range(num)]),
    "si": lambda num: ScaleInvariant(num_tasks=num),
    "gls": lambda num: GeometricLoss(num_tasks=num),
    "go4align": lambda num: GO4Align(num_tasks=num, num_groups=2),
    "imtll": lambda num: IMTLL(num_tasks=num),
    "stch": lambda num: STCH(num_tasks=num, mu=0.5, warmup_epochs=2),
}
RULES: dict[str, Callable[[int], Rule]] = {
    **GRADIENT,
    **LOSSES,
    "gradnorm weights": lambda num: GradNormWeights(num_tasks=num, alpha=0.7, burn_in_period=2),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def gradients(num_tasks: int, seed: int, ratio: float = 1.0) -> Tensor:
    """Gradients of which some conflict, with lengths from 1 to 1 / ratio."""
    return with_lengths(normal(num_tasks, DIM, seed=seed), ratio)


def opposed(num_tasks: int, seed: int, ratio: float = 1.0) -> Tensor:
    """Gradients that conflict with each other and the shorter ones with the mean."""
    G = gradients(num_tasks, seed)
    return with_lengths(G - 0.95 * G.mean(0), ratio)


def conflict_free(num_tasks: int) -> Tensor:
    """Gradients whose inner products are all positive."""
    return gradients(num_tasks, 0).abs() + 0.1


def with_lengths(G: Tensor, ratio: float) -> Tensor:
    """The same directions with lengths from 1 to 1 / ratio."""
    lengths = torch.linspace(0, 1, len(G), dtype=torch.float64).neg().mul(math.log(ratio)).exp()
    return units(G) * lengths.unsqueeze(1)


def units(G: Tensor) -> Tensor:
    """The directions."""
    return G / G.norm(dim=1, keepdim=True)


def close(
    result: Tensor, expected: Tensor, *, atol: float, rtol: float = 0.0, message: object = None
) -> None:
    """Assert that two tensors are equal up to rounding."""
    text = None if message is None else (lambda details: f"{message}: {details}")
    torch.testing.assert_close(result, expected, rtol=rtol, atol=atol, msg=text)
