"""A task that is infinite or NaN touches nothing but its own head: the others train without it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.linalg import devices
from tests.contract.test_methods import METHODS, ROTATED, build, make_optimizer, max_num_tasks
from tests.samplers import SIZE

BAD, NUM_TASKS, NUM_STEPS = 1, 3, 4


class Opaque(nn.Module):
    """A head that is not known to begin with a linear layer."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(SIZE, num_outputs)

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z.sin())


def conv_head(k: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(SIZE, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, k + 1, 1))


# by the form that computing them takes: a head for task k
HEADS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda k: nn.Linear(SIZE, k + 1),
    "equal": lambda k: nn.Linear(SIZE, 2),
    "deep": lambda k: nn.Sequential(nn.Linear(SIZE, 2), nn.Tanh(), nn.Linear(2, 1)),
    "opaque": lambda k: Opaque(k + 1),
    "convolutions": conv_head,
}


def fill_head(model: Any, value: float) -> None:
    for p in model.heads[BAD].parameters():
        p.detach().fill_(value)


SPOIL: dict[str, Callable[[Any, Tensor], Tensor | None]] = {
    "absent": lambda model, loss: None,
    "NaN loss": lambda model, loss: loss * torch.nan,
    "infinite loss": lambda model, loss: loss * torch.inf,
    "infinite value": lambda model, loss: loss + torch.inf,
}
BAD_HEADS = {"NaN head": torch.nan, "infinite head": torch.inf}


def trained(method: str, form: str, kind: str, **options: Any) -> Any:
    """The method after steps of which all but the first have a task that is not finite."""
    torch.manual_seed(1)
    map_shape = (4, 4) if form == "convolutions" else ()
    layer = nn.Conv2d(3, SIZE, 1) if map_shape else nn.Linear(3, SIZE)
    heads = [HEADS[form](k) for k in range(NUM_TASKS)]
    if map_shape:
        options = {"post_shape": map_shape, **options}
    shape = (SIZE, *map_shape)
    model = build(method, heads, layer, feature_shape=shape, **options).double().train()
    network = torch.optim.SGD(model.model_parameters(), lr=0.05)
    own = make_optimizer(model, lr=0.01)
    for step in range(NUM_STEPS):
        x = torch.randn(5, 3, *map_shape, generator=torch.Generator().manual_seed(step))
        if step == 1 and kind in BAD_HEADS:
            fill_head(model, BAD_HEADS[kind])
        losses: list[Tensor | None] = [(y - 1).square().mean() for y in model(x.double())]
        if step and kind in SPOIL:
            loss = losses[BAD]
            assert loss is not None
            losses[BAD] = SPOIL[kind](model, loss)
        torch.manual_seed(step)
        model.backward(losses)
        for optimizer in filter(None, (network, own)):
            optimizer.step()
            optimizer.zero_grad()
    return model


def healthy_part(model: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = model.state_dict()
    others = (f"heads.{BAD}.", "num_nonfinite")
    # extra states hold more than tensors
    return {k: v for k, v in state.items() if isinstance(v, Tensor) and not k.startswith(others)}


def assert_absent(method: str, form: str, **options: Any) -> None:
    expected = healthy_part(trained(method, form, "absent", **options))
    for kind in [*list(SPOIL)[1:], *BAD_HEADS]:
        model = trained(method, form, kind, **options)
        result = healthy_part(model)
        is_bad = not all(p.isfinite().all() for p in model.heads[BAD].parameters())
        assert is_bad == (kind != "infinite value"), kind  # whose gradient is finite
        assert model.num_nonfinite.tolist() == [0, NUM_STEPS - 1, 0], kind
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def sees_gradients(method: str) -> bool:
    if max_num_tasks(method) == 1 or method == "rotate + rlw":  # whose weights know no losses
        return False
    model = build(method, [nn.Identity() for _ in range(NUM_TASKS)])
    return bool(model.per_task_gradients)


METHODS_OF_TASKS = [method for method in METHODS + ROTATED if sees_gradients(method)]


@pytest.mark.parametrize("method", METHODS_OF_TASKS)
def test_a_nonfinite_task_counts_as_absent_to_all_but_its_head(method: str) -> None:
    assert_absent(method, "linear")


@pytest.mark.parametrize(
    "options",
    [{"normalize_losses": True}, {"rotation_map": "cayley"}, {"rotation_shape": SIZE - 2}],
    ids=str,
)
@pytest.mark.parametrize("path", ["folded", "general"])
def test_a_nonfinite_task_counts_as_absent_whatever_the_rotations_are(
    path: str, options: dict[str, Any]
) -> None:
    assert_absent("rotograd", "linear", rotation_path=path, **options)


@pytest.mark.parametrize("form", ["equal", "opaque"])
def test_a_loss_that_uses_two_heads_gets_nothing_of_a_third_that_is_nan(form: str) -> None:
    gradients = []
    for value in (1.0, torch.nan):
        torch.manual_seed(1)
        heads = [HEADS[form](1) for _ in range(NUM_TASKS)]
        model = build("pcgrad", heads, nn.Linear(3, SIZE))
        fill_head(model, value)
        first, _, last = model(torch.ones(5, 3))
        model.backward([(first + last).square().mean(), None, last.square().mean()])
        others = [*model.backbone.parameters(), *heads[0].parameters(), *heads[2].parameters()]
        gradients.append([p.grad for p in others])
    assert all(map(torch.equal, *gradients))


@pytest.mark.slow
@pytest.mark.parametrize("device_is_far", [False, True])
@pytest.mark.parametrize("form", HEADS)
@pytest.mark.parametrize("path", ["auto", "general"])
@pytest.mark.parametrize("method", ["rotograd", "rotate + pcgrad", "imtlg_rotations"])
def test_a_nonfinite_task_counts_as_absent_whatever_form_the_heads_take(
    method: str, path: str, form: str, device_is_far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device_is_far:
        monkeypatch.setattr(devices, "reads_are_free", lambda device: False)
    assert_absent(method, form, rotation_path=path)
