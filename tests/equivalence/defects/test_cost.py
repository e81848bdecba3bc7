"""Exponentials, waits for the device and memory: defects 6 and 7."""

import gc
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rotograd_cli import methods
from rotograd_cli.linalg import devices
from tests.equivalence.defects.models import (
    BURN_IN,
    NUM_TASKS,
    SIZE,
    batch,
    build,
    every_method,
    make_heads,
    make_optimizers,
    pass_once,
    reference,
    step,
)

# ---- 6 and 7: exponentials, device syncs, memory


def count_exponentials(
    monkeypatch: pytest.MonkeyPatch, model: Any, package: ModuleType
) -> list[int]:
    """A list that grows by the number of matrices in every exponential of the model."""
    calls: list[int] = []
    if package is methods:
        for name in ("minus_one", "fold"):  # whole rotations, or those folded into the heads
            exact = getattr(model.rotations.map, name)
            monkeypatch.setattr(
                model.rotations.map,
                name,
                lambda A, *rest, exact=exact: (calls.append(A.shape[0]), exact(A, *rest))[1],
            )
    else:
        for k in range(NUM_TASKS):
            manifold = model.parametrizations[f"rotation_{k}"][0]
            triv = manifold.triv
            manifold.triv = lambda A, triv=triv: (calls.append(1), triv(A))[1]
    return calls


def uses_each_rotation_once(monkeypatch: pytest.MonkeyPatch, package: ModuleType) -> None:
    model, x = build(package), batch().float()
    calls = count_exponentials(monkeypatch, model, package)
    optimizers = make_optimizers(model)
    for _ in range(3):
        step(model, optimizers, x)
    assert sum(calls) == 3 * NUM_TASKS
    model.eval()
    calls.clear()
    with package.cached():
        for _ in range(3):
            model(x)
            model[1](x)
    assert sum(calls) == NUM_TASKS


def test_each_rotation_is_computed_once_per_step_and_once_for_all_of_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uses_each_rotation_once(monkeypatch, methods)
    with pytest.raises(AssertionError):
        uses_each_rotation_once(monkeypatch, reference)


def test_micro_batches_share_the_rotations(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(methods)
    calls = count_exponentials(monkeypatch, model, methods)
    with methods.cached():
        for accumulating in (True, True, False):
            pass_once(model, batch().float(), accumulating=accumulating)
    assert calls == [NUM_TASKS]


class CountSyncs(TorchDispatchMode):
    """Counts the operations for which an accelerator's queue would have to drain."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += func.name() in {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}
        return func(*args, **(kwargs or {}))


def never_waits(package: ModuleType, method: str) -> None:
    model, x = build(package, method, heads=make_heads()), batch().float()
    options = {} if package is reference else {"loss_scale": torch.tensor(8.0)}
    pass_once(model, x, **options)  # after a switch of the mode, series are planned once
    for _ in range(BURN_IN + 2):
        with CountSyncs() as syncs:
            pass_once(model, x, **options)
        assert syncs.num == 0


@every_method
@pytest.mark.parametrize("normalize", [True, False])
def test_a_training_pass_never_waits_for_the_device(
    method: str, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "reads_are_free", lambda device: False)
    never_waits(methods, method)
    if method != "VanillaMTL":
        with pytest.raises(AssertionError):
            never_waits(reference, method)


def retains_one_feature_tensor(package: ModuleType, method: str) -> None:
    num = 97  # a batch size that nothing else here has
    model = build(package, method)
    pass_once(model, batch(num=num).float())
    gc.collect()
    shapes = [tuple(t.shape) for t in gc.get_objects() if type(t) is Tensor]
    assert shapes.count((num, SIZE)) + NUM_TASKS * shapes.count((NUM_TASKS, num, SIZE)) <= 1


@pytest.mark.slow
@every_method
def test_one_feature_tensor_is_kept_between_steps(method: str) -> None:
    retains_one_feature_tensor(methods, method)
    with pytest.raises(AssertionError):
        retains_one_feature_tensor(reference, method)
