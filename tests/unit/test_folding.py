"""Rotations folded away: plain networks with the numbers of the method and the cost of vanilla."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rotograd_cli.methods import RotoGrad, VanillaMTL
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.folding import ConstantRotation, fold_task, fold_tasks
from rotograd_cli.methods.rotate import Rotate
from rotograd_cli.models.backbones.segnet import SegNet, SegNetMTAN
from rotograd_cli.models.heads import ASPPHead, ConvHead, MTANHead, share_layers
from tests.networks import Reshape, WithExtras


@dataclass(frozen=True)
class Case:
    """Features, the heads on them, and how they are rotated."""

    features: tuple[int, ...]
    heads: Callable[[], Sequence[nn.Module]]
    options: dict[str, Any] = field(default_factory=dict)
    num_kept: int = 0
    """Heads whose rotation cannot be folded."""


def with_hook() -> nn.Module:
    layer = nn.Linear(6, 2)
    layer.register_forward_pre_hook(lambda _, arguments: (arguments[0] ** 2,))
    return layer


def repeated() -> list[nn.Module]:
    """Two heads that begin with the same layer."""
    first = nn.Linear(6, 4)
    return [nn.Sequential(first, nn.Tanh(), nn.Linear(4, size)) for size in (1, 2)]


def linears(num_inputs: int) -> list[nn.Module]:
    hidden = nn.Sequential(nn.Linear(num_inputs, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    return [nn.Linear(num_inputs, 3, bias=False), nn.Sequential(nn.Dropout(), hidden)]


def convolutions() -> list[nn.Module]:
    strided = nn.Conv2d(6, 3, (2, 3), stride=2, padding=1, padding_mode="reflect")
    more = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 9, 1))
    return [nn.Conv2d(6, 2, 1), nn.Sequential(strided, *more)]


MAP = (6, 4, 6)
FOLDED = {
    "linear": Case((6,), lambda: linears(6)),
    "linear, some features": Case((6,), lambda: linears(6), {"rotation_shape": 4}),
    "linear, batch axes": Case((3, 6), lambda: linears(6), {"rotation_shape": 5}),
    "one layer twice": Case((6,), repeated),
    "flattened": Case(MAP, lambda: [nn.Sequential(nn.Flatten(), h) for h in linears(144)]),
    "flattened after channels": Case(
        MAP,
        lambda: [nn.Sequential(nn.Flatten(), head) for head in linears(144)],
        {"rotation_shape": 4, "post_shape": (-1, -1)},
    ),
    "flattened batch axes": Case(
        (3, 6),
        lambda: [nn.Sequential(nn.Flatten(), head) for head in linears(18)],
        {"rotation_shape": 5},
    ),
    "convolution": Case(MAP, convolutions, {"rotation_shape": 6, "post_shape": (4, 6)}),
    "convolution, some channels": Case(
        MAP, convolutions, {"rotation_shape": 3, "post_shape": (-1, -1)}
    ),
    "one axis": Case(
        (6, 5), lambda: [nn.Conv1d(6, 2, 3)], {"rotation_shape": 4, "post_shape": (5,)}
    ),
}
KEPT = {
    "no layer first": Case((6,), lambda: [nn.Sequential(nn.ReLU(), nn.Linear(6, 2))], {}, 1),
    "a hook": Case((6,), lambda: [with_hook(), nn.Linear(6, 1)], {"rotation_shape": 5}, 1),
    "groups": Case(
        MAP,
        lambda: [nn.Conv2d(6, 2, 3, groups=2), nn.Conv2d(6, 2, 3)],
        {"rotation_shape": 5, "post_shape": (4, 6)},
        1,
    ),
    "convolution over rotated pixels": Case(MAP, convolutions, {"rotation_shape": (1, 1, 100)}, 2),
    "linear on another axis": Case(
        (6, 5), lambda: [nn.Linear(5, 2)], {"rotation_shape": 6, "post_shape": (5,)}, 1
    ),
}
CASES = {**FOLDED, **KEPT}


def network(case: Case, method: str = "rotograd") -> MultiTaskMethod:
    """A method away from its start, with statistics in its BatchNorm, in float64."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(5, 144), nn.BatchNorm1d(144), nn.Tanh(), Cut(*case.features))
    if method == "vanilla":
        model: MultiTaskMethod = VanillaMTL(backbone, case.heads())
    else:
        options = {"rotation_shape": case.features, **case.options}
        model = RotoGrad(backbone, case.heads(), feature_shape=case.features, **options)
        model.rotations.free_parameters.detach().normal_(std=0.3)
    return settled(model, torch.randn(8, 5))


class Cut(Reshape):
    """The first features, in another shape."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, : torch.Size(self.shape).numel()])


def settled(model: MultiTaskMethod, x: Tensor) -> MultiTaskMethod:
    model.double().train()
    with torch.no_grad():
        model(x.double())  # BatchNorm records
    return model.eval()


def assert_equal_predictions(model: Any, x: Tensor) -> nn.Module:
    """Fold all tasks, in another order, and each alone, and compare with the model."""
    order = list(range(len(model)))[::-1]
    state = copy.deepcopy(model.state_dict())
    together = fold_tasks(model, x[:2], order)
    assert not (storages(together) & storages(model))
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    with torch.no_grad():
        expected = [model[k](x) for k in range(len(model))]
        found = together(x)
        for k, y in zip(order, found, strict=True):
            y_alone = fold_task(model, x[:2], k)(x)
            torch.testing.assert_close(y, expected[k], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(y_alone, expected[k], rtol=1e-10, atol=1e-10)
    return together


def storages(module: nn.Module) -> set[int]:
    tensors = (*module.parameters(), *module.buffers())
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def num_kept(module: nn.Module) -> int:
    return sum(isinstance(part, ConstantRotation) for part in module.modules())


@pytest.mark.parametrize("name", CASES)
def test_a_folded_network_predicts_what_the_method_does(name: str) -> None:
    case = CASES[name]
    folded = assert_equal_predictions(network(case), torch.randn(7, 5).double())
    assert num_kept(folded) == case.num_kept


def test_methods_without_rotations_lose_nothing() -> None:
    folded = assert_equal_predictions(
        network(FOLDED["linear"], "vanilla"), torch.randn(3, 5).double()
    )
    assert num_kept(folded) == 0


def small_segnet(kind: str) -> tuple[MultiTaskMethod, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    filters = [4, 16]
    make = SegNetMTAN if kind == "mtan" else SegNet
    backbone = make(input_shape=(3, 8, 8), filters=filters)
    shape = tuple(backbone.eval()(x).shape[1:])
    heads: list[nn.Module] = [HEADS[kind](shape, size, filters) for size in (3, 1)]
    share_layers(heads)
    options = {"rotation_shape": 4, "post_shape": shape[1:]}
    if kind in ("mtan", "pixels"):
        options = {"rotation_shape": (1, 1, 20)}
    model = RotoGrad(backbone, heads, **options)
    model.rotations.free_parameters.detach().normal_(std=0.3)
    return settled(model, x), x.double()


HEADS: dict[str, Callable[..., nn.Module]] = {
    "mtan": lambda shape, size, filters: MTANHead(
        feature_shape=shape, num_outputs=size, filters=filters, shared_blocks=True
    ),
    "pixels": lambda shape, size, _: ConvHead(feature_shape=shape, num_outputs=size),
    "channels": lambda shape, size, _: ConvHead(feature_shape=shape, num_outputs=size),
    "aspp": lambda shape, size, _: ASPPHead(
        feature_shape=shape, num_outputs=size, atrous_rates=[2], upsample=2
    ),
}


@pytest.mark.parametrize(
    ("kind", "kept"), [("mtan", 2), ("pixels", 2), ("channels", 0), ("aspp", 2)]
)
def test_dense_networks_predict_what_the_method_does(kind: str, kept: int) -> None:
    model, x = small_segnet(kind)
    folded: Any = assert_equal_predictions(model, x)
    assert num_kept(folded) == kept
    if kind == "mtan":  # blocks of all tasks stay one
        first, second = (head[1] for head in folded.heads)
        assert first.blocks is second.blocks


def test_only_the_predictions_are_returned() -> None:
    heads = [WithExtras(nn.Linear(6, 1)), nn.Linear(6, 2)]
    model: Any = RotoGrad(WithExtras(nn.Linear(5, 6)), heads, 6).double().eval()
    x = torch.randn(3, 5).double()
    expected, _ = model(x)
    for found, y in zip(fold_tasks(model, x)(x), expected, strict=True):
        torch.testing.assert_close(found, y, rtol=1e-10, atol=1e-10)


class Recorded(TorchDispatchMode):
    """Names of the operations inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def cost(module: nn.Module, x: Tensor) -> tuple[int, list[str]]:
    """Floating-point operations, and every call of a kernel, in order."""
    flops = FlopCounterMode(display=False)
    with torch.no_grad(), Recorded() as recorded, flops:
        module(x)
    return flops.get_total_flops(), recorded.names


@pytest.mark.parametrize("name", FOLDED)
def test_a_folded_task_costs_exactly_what_vanilla_costs(name: str) -> None:
    case = FOLDED[name]
    x = torch.randn(4, 5).double()
    rotated = network(case)
    plain = network(case, "vanilla")
    for k in range(len(rotated)):
        assert cost(fold_task(rotated, x, k), x) == cost(plain[k], x)


def test_an_average_of_rotations_is_refused_as_everywhere() -> None:
    from rotograd_cli.errors import CheckpointError

    model: Any = Rotate(nn.Linear(5, 6), [nn.Linear(6, 1)], 6, rule=None)
    model.rotations.base.mul_(0.9)
    with pytest.raises(CheckpointError, match=r"rotations.base\[0\]. must be orthogonal"):
        fold_task(model, torch.randn(2, 5), 0)
