"""Loops that look right and are not are noticed once, with the fix; right ones hear nothing."""

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import optimizer as optimizers_of_torch
from torch.optim.swa_utils import AveragedModel

from rotograd_cli.errors import RankError
from rotograd_cli.linalg import devices
from rotograd_cli.methods import RotateOnly
from rotograd_cli.methods.engine import misuse
from tests.contract.test_methods import METHODS, build, max_num_tasks
from tests.marks import slow_unless

SIZE, NUM_TASKS = 6, 2
SAID = {
    "two optimisers": r"^Two optimisers apply the same gradient of `backbone\.0\.weight` and \d+ ",
    "cleared": r"^Two optimisers have, and the second finds no gradient left of, `rotations",
    "no optimiser": r"^`[\w.]+`( and 1 more)? of \w+ is in no optimiser and stays as it is; give",
    "plain backward": r"^The last losses were differentiated without model\.backward, so that",
    "no second call": r"^FAMO learns from what an update gains, but was never told: after the",
    "scale": r"^The losses were scaled by a GradScaler, which \w+ does not know .*loss_scale=",
}
LEARNING = [
    method
    for method in METHODS
    if max_num_tasks(method) is None and list(build(method, [nn.Identity()] * 2).mtl_parameters())
]


def heads_of(kind: str) -> list[nn.Module]:
    if kind == "linear":
        return [nn.Linear(SIZE, 1) for _ in range(NUM_TASKS)]
    return [nn.Sequential(nn.Linear(SIZE, 5), nn.Tanh(), nn.Linear(5, 1)) for _ in range(NUM_TASKS)]


def network(method: str = "rotograd", kind: str = "linear") -> Any:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(4, SIZE), nn.Tanh())
    heads = heads_of(kind)[: max_num_tasks(method)]
    return build(method, heads, backbone).train()


def losses_of(model: Any) -> list[Tensor]:
    return [(y - 1).square().mean() for y in model(torch.randn(8, 4))]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(list(parameters), lr=0.01)


def pair(model: Any) -> list[torch.optim.Optimizer]:
    own = list(model.mtl_parameters())
    return [sgd(model.model_parameters()), *([sgd(own)] if own else [])]


def observe(model: Any, losses: list[Tensor]) -> None:
    """FAMO's second call."""
    if not model.needs_losses_after_update:
        return
    before = torch.stack([loss.detach() for loss in losses])
    with torch.no_grad():
        after = torch.stack(losses_of(model))
    model.observe_update(before, after, torch.ones(len(losses), dtype=torch.bool))


def step(
    model: Any, optimizers: list[torch.optim.Optimizer], clear: Callable[[], None] | None = None
) -> None:
    losses = losses_of(model)
    model.backward(losses)
    optimizers[0].step()
    observe(model, losses)
    for optimizer in optimizers[1:]:
        optimizer.step()
    if clear is not None:
        clear()
    for optimizer in optimizers:
        optimizer.zero_grad()


def said(loop: Callable[[], None]) -> list[str]:
    """What a loop was told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop()
    return [str(warning.message) for warning in caught]


def assert_said_once(kind: str, loop: Callable[[], None]) -> None:
    with pytest.warns(UserWarning, match=SAID[kind]) as caught:
        loop()
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


def hooks() -> int:
    return len(optimizers_of_torch._global_optimizer_pre_hooks) + len(
        optimizers_of_torch._global_optimizer_post_hooks
    )


# ---- what is noticed


@pytest.mark.parametrize("method", ["rotograd", "vanilla", "pcgrad", "famo"])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("foreach", [True, False])
def test_a_parameter_in_two_optimisers(method: str, order: int, foreach: bool) -> None:
    model = network(method)
    optimizers = [
        torch.optim.Adam(list(model.model_parameters()), foreach=foreach),
        torch.optim.SGD(list(model.parameters()), lr=0.1, foreach=foreach),  # the authors' example
    ][::order]

    def loop() -> None:
        for _ in range(5):
            step(model, optimizers)

    assert_said_once("two optimisers", loop)


def test_two_optimisers_of_which_the_first_clears_the_gradients() -> None:
    model = network()
    optimizers = [sgd(model.parameters()), sgd(model.mtl_parameters())]

    def loop() -> None:
        for _ in range(5):
            model.backward(losses_of(model))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    assert_said_once("cleared", loop)


def test_a_wrapper_that_averages_gradients_of_ranks() -> None:
    model = network("pcgrad")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(nn.Sequential(model))
        losses = [y.square().mean() for y in wrapped(torch.randn(8, 4))]
        with pytest.raises(RankError, match=r"^PCGrad must not be inside Distr.*\.distribute\(mod"):
            model.backward(losses)
        model = network("pcgrad")
        assert said(lambda: model.backward(losses_of(model))) == []  # nor is it alone
    finally:
        dist.destroy_process_group()


def test_a_rotation_in_two_optimisers() -> None:
    model = network()
    optimizers = [sgd(model.parameters()), sgd(model.mtl_parameters())]
    with pytest.warns(UserWarning, match="the same gradient of `rotations.free_parameters`; give"):
        step(model, optimizers)


def test_method_parameters_in_no_optimiser_whoever_clears_gradients() -> None:
    for number, method in enumerate(LEARNING):
        model = network(method)
        clear = model.zero_grad if number % 2 else None

        def loop(model: Any = model, clear: Any = clear) -> None:
            optimizers = [sgd(model.model_parameters())]
            for _ in range(5):
                step(model, optimizers, clear)

        assert_said_once("no optimiser", loop)


def test_task_weights_that_were_forgotten_beside_rotations() -> None:
    model = network("rotogradnorm")
    optimizers = [sgd(model.model_parameters()), sgd([model.rotations.free_parameters])]
    heard = said(lambda: [step(model, optimizers) for _ in range(5)] and None)
    assert [text.split(" is in no")[0] for text in heard] == ["`rule.log_weight` of RotoGradNorm"]


CONV = [nn.Conv2d(SIZE, 1, 1), nn.Conv2d(SIZE, 2, 1)]


@pytest.mark.parametrize("method", ["vanilla", "rotograd", "pcgrad", "famo"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_losses_that_were_differentiated_without_backward(method: str, kind: str) -> None:
    model = network(method, kind)

    def loop() -> None:
        for _ in range(3):
            torch.stack(losses_of(model)).sum().backward()

    assert_said_once("plain backward", loop)


@pytest.mark.parametrize("channels_last", [True, False])
def test_losses_of_maps_that_were_differentiated_without_backward(channels_last: bool) -> None:
    model = RotateOnly(nn.Conv2d(3, SIZE, 1), copy.deepcopy(CONV), SIZE, post_shape=(-1, -1))
    x = torch.randn(2, 3, 4, 4)
    x = x.to(memory_format=torch.channels_last) if channels_last else x

    def loop() -> None:
        for _ in range(3):
            torch.stack([y.square().mean() for y in model(x)]).sum().backward()

    assert_said_once("plain backward", loop)


@pytest.mark.parametrize("clear", ["optimizer", "model"])
def test_famo_without_its_second_call(clear: str) -> None:
    model = network("famo")
    optimizers = pair(model)

    def loop() -> None:
        for _ in range(5):
            model.backward(losses_of(model))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if clear == "model":
                model.zero_grad()

    assert_said_once("no second call", loop)


@pytest.mark.parametrize("num_micro_batches", [1, 4])
@pytest.mark.parametrize("method", ["rotograd", "gradnorm", "famo", "dwa", "pcgrad"])
def test_scaled_losses_without_their_scale(method: str, num_micro_batches: int) -> None:
    model = network(method)
    scaler = torch.amp.GradScaler("cpu")

    def loop() -> None:
        for _ in range(2):
            losses = scaler.scale(losses_of(model))
            model.backward([loss / num_micro_batches for loss in losses])

    assert_said_once("scale", loop)


# ---- what is right


def usual(model: Any) -> None:
    optimizers = pair(model)
    for _ in range(6):
        step(model, optimizers)


def one_optimiser_with_two_groups(model: Any) -> None:
    own = list(model.mtl_parameters())
    groups = [{"params": list(model.model_parameters())}, *([{"params": own}] if own else [])]
    optimizer = torch.optim.Adam(groups)
    for _ in range(6):
        losses = losses_of(model)
        model.backward(losses)
        observe(model, losses)
        optimizer.step()
        optimizer.zero_grad()


def accumulated(model: Any) -> None:
    optimizers = pair(model)
    for i in range(24):
        losses = losses_of(model)
        model.backward([x / 4 for x in losses], num_micro_batches=4, accumulating=i % 4 < 3)
        if i % 4 == 3:
            optimizers[0].step()
            observe(model, losses)
            for optimizer in optimizers[1:]:
                optimizer.step()
            model.zero_grad()


def scaled(model: Any) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
    optimizers = pair(model)
    for i in range(6):
        losses = losses_of(model)
        model.backward(scaler.scale(losses), loss_scale=scaler.get_scale())
        if i in (0, 3):
            next(model.model_parameters()).grad.fill_(torch.inf)  # left out by the scaler
        for index, optimizer in enumerate(optimizers):
            if index == 1:
                observe(model, losses)
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()


def disabled_scaler(model: Any) -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizers = pair(model)
    for _ in range(5):
        losses = losses_of(model)
        model.backward(scaler.scale(losses))
        for index, optimizer in enumerate(optimizers):
            if index == 1:
                observe(model, losses)
            scaler.step(optimizer)
            optimizer.zero_grad()


def weighed_by_tensors(model: Any) -> None:
    scaler = torch.amp.GradScaler("cpu")  # of another model
    scaler.scale(torch.ones(()))
    optimizers = pair(model)
    for _ in range(5):
        losses = [loss * torch.tensor(2.0) for loss in losses_of(model)]
        model.backward(losses)
        for index, optimizer in enumerate(optimizers):
            if index == 1:
                observe(model, losses)
            optimizer.step()
            optimizer.zero_grad()


def averaged(model: Any) -> None:
    average = AveragedModel(model)
    optimizers = pair(model)
    for _ in range(5):
        step(model, optimizers)
        average.update_parameters(model)
        average.module.eval()
        with torch.no_grad():
            average(torch.randn(8, 4))
    copy.deepcopy(model)
    pickle.loads(pickle.dumps(model))


def frozen(model: Any) -> None:
    for p in model.mtl_parameters():
        p.requires_grad_(False)
    model.heads[0].requires_grad_(False)
    optimizer = sgd(model.model_parameters())
    for _ in range(5):
        step(model, [optimizer])


def frozen_backbone_by_autograd(model: Any) -> None:
    model.backbone.requires_grad_(False)
    optimizer = sgd(model.heads.parameters())
    for _ in range(5):
        torch.stack(losses_of(model)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def rotations_now_and_then(model: Any) -> None:
    optimizers = pair(model)
    for i in range(12):
        losses = losses_of(model)
        model.backward(losses)
        optimizers[0].step()
        observe(model, losses)
        optimizers[0].zero_grad()
        if i % 5 == 4:
            for optimizer in optimizers[1:]:
                optimizer.step()
                optimizer.zero_grad()


def by_hand(model: Any) -> None:
    optimizer = sgd(model.model_parameters())
    for _ in range(5):
        losses = losses_of(model)
        model.backward(losses)
        optimizer.step()
        observe(model, losses)
        for p in model.mtl_parameters():
            p.data -= 0.01 * p.grad
        model.zero_grad()


class Outer(torch.optim.Optimizer):
    """An optimiser that calls another one with the same parameters, in groups of its own."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.inner = torch.optim.SGD(parameters, lr=0.01)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        del closure
        self.inner.step()


def wrapped(model: Any) -> None:
    optimizers: list[torch.optim.Optimizer] = [Outer(list(model.model_parameters()))]
    own = list(model.mtl_parameters())
    optimizers += [Outer(own)] if own else []
    for _ in range(5):
        step(model, optimizers)


def with_a_closure(model: Any) -> None:
    optimizers = pair(model)

    def closure() -> float:
        optimizers[0].zero_grad()
        losses = losses_of(model)
        model.backward(losses)
        return float(torch.stack(losses).detach().sum())

    for _ in range(5):
        optimizers[0].step(closure)
        observe(model, losses_of(model))
        for optimizer in optimizers[1:]:
            optimizer.step()
            optimizer.zero_grad()
    model.forget()


def with_another_loss_and_optimiser(model: Any) -> None:
    """A second phase with gradients of its own."""
    optimizers, other = pair(model), sgd(model.backbone.parameters())
    for _ in range(5):
        step(model, optimizers)
        model.backbone(torch.randn(8, 4)).square().mean().backward()
        other.step()
        other.zero_grad()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=False)


def evaluated(model: Any) -> None:
    optimizers = pair(model)
    for _ in range(5):
        step(model, optimizers)
        torch.stack(losses_of(model.eval())).sum().backward()  # an ordinary function
        model.zero_grad()
        losses_of(model.train())  # a pass that nothing comes of


RIGHT = {
    f.__name__: f
    for f in (
        usual,
        one_optimiser_with_two_groups,
        accumulated,
        scaled,
        disabled_scaler,
        weighed_by_tensors,
        averaged,
        frozen,
        frozen_backbone_by_autograd,
        rotations_now_and_then,
        by_hand,
        wrapped,
        with_a_closure,
        with_another_loss_and_optimiser,
        evaluated,
    )
}
QUICK = ("usual", "scaled")
"""Loops of the default tests; the others are among the slow ones."""


@pytest.mark.parametrize("loop", slow_unless(QUICK, RIGHT))
def test_nothing_is_said_about_a_right_loop(loop: str) -> None:
    for method in METHODS:
        for kind in ("linear", "mlp"):
            model = network(method, kind)
            assert said(lambda m=model: RIGHT[loop](m)) == [], method


@pytest.mark.parametrize("method", ["vanilla", "rlw"])
def test_methods_that_only_add_gradients_need_no_scale(method: str) -> None:
    model = network(method)
    scaler = torch.amp.GradScaler("cpu")
    assert said(lambda: model.backward(scaler.scale(losses_of(model)))) == []


# ---- what it leaves behind


@pytest.fixture
def _no_other_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(misuse, "_watches", weakref.WeakSet())
    monkeypatch.setattr(misuse, "_hooks", [])


def watched() -> Any:
    """Return a model after its first step."""
    model = network()
    step(model, pair(model))
    return model


@pytest.mark.usefixtures("_no_other_watch")
def test_watching_ends_after_three_steps_or_with_the_model() -> None:
    before = hooks()
    first = network()
    optimizers = pair(first)
    for _ in range(3):
        step(first, optimizers)
        assert hooks() == before + 2
    second = watched()
    step(first, optimizers)
    assert hooks() == before + 2  # the second is still watched
    gone = weakref.ref(second)
    del second
    gc.collect()
    assert gone() is None
    step(first, optimizers)
    assert hooks() == before


@pytest.mark.slow
@pytest.mark.usefixtures("_no_other_watch")
def test_a_model_may_be_freed_during_the_step_of_another() -> None:
    others: list[Any] = []

    def free(*_: Any) -> None:
        others.clear()
        gc.collect()

    handle = optimizers_of_torch.register_optimizer_step_pre_hook(free)
    model = watched()
    others.append(watched())
    step(model, pair(model))  # torch goes on through its hooks after `free`
    handle.remove()


def test_watching_waits_for_the_device_in_no_right_loop(
    count_reads: Callable[[Callable[[], Any]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "reads_are_free", lambda device: False)
    for loop in (rotations_now_and_then, usual):
        model = network("graddrop")  # itself reads nothing
        assert count_reads(lambda m=model, loop=loop: loop(m)) == 0
