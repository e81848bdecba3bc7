"""What a model is made of: devices without memory, and what a backbone may return."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rule import LossWeighting
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.losses import mean_squared_error
from rotograd_cli.training.blame import component_of
from tests.contract.test_methods import FILES as METHODS
from tests.contract.test_methods import build, max_num_tasks
from tests.samplers import SIZE


def network(method: str) -> Any:
    heads = [nn.Linear(SIZE, 2) for _ in range(3)][: max_num_tasks(method)]
    return build(method, heads, nn.Linear(4, SIZE))


def test_a_model_made_without_memory_gets_its_values_from_a_checkpoint() -> None:
    x = torch.randn(5, 4)
    for method in METHODS:
        wanted = network(method)
        with torch.device("meta"):
            empty = network(method)
        tensors = [*empty.parameters(), *empty.buffers()]
        assert all(tensor.is_meta for tensor in tensors)
        for found in (empty.to_empty(device="cpu"), empty):
            found.load_state_dict(wanted.state_dict())
            with torch.no_grad():
                for y, z in zip(found.eval()(x), wanted.eval()(x), strict=True):
                    torch.testing.assert_close(y, z)


def test_rotations_are_the_same_wherever_the_default_device_is() -> None:
    wanted = network("rotograd")
    with torch.device("cpu"):
        found = network("rotograd")
    assert torch.equal(found.rotation, wanted.rotation)


class Returns(nn.Module):
    """A backbone that returns its features in some way."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.how = how
        self.layer = nn.Linear(4, SIZE)

    def forward(self, x: Tensor) -> Any:
        return self.how(self.layer(x))


WRONG = {
    "dict": (lambda z: {"out": z, "aux": z}, "dict"),
    "tuple of dict": (lambda z: ({"out": z}, z), "dict"),
    "nothing": (lambda z: None, "NoneType"),
    "empty": (lambda z: (), "tuple"),
    "array": (lambda z: z.detach().numpy(), "ndarray"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_backbone_that_returns_no_tensor_is_refused_in_one_line(kind: str) -> None:
    how, found = WRONG[kind]
    for method in METHODS:
        heads = [nn.Linear(SIZE, 2)]
        model = build(method, heads, Returns(how))
        message = (
            r"^`backbone` must return the features as one tensor, or a tuple that begins with it, "
            f"got {found}; wrap it in a module that returns that tensor\\.$"
        )
        for run in (model.train(), model.train()[0], model.eval()):
            with pytest.raises(ShapeError, match=message):
                run(torch.randn(3, 4))


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_backbone_may_return_extra_outputs_after_the_features(kind: Any) -> None:
    model = build("rotograd", [nn.Linear(SIZE, 2)], Returns(lambda z: kind((z, {"aux": z}))))
    predictions, extras = model(torch.randn(3, 4))
    assert len(predictions) == 1
    assert list(extras.backbone[0]) == ["aux"]


def test_a_method_of_the_former_contract_is_refused_rather_than_ignored() -> None:
    with pytest.raises(ConfigError, match=r"`Half.shared_gradient` would never be called; .* rule"):

        class Half(MultiTaskMethod):
            def shared_gradient(self, task_gradients: Tensor, step: Any) -> Tensor:
                return 0.5 * task_gradients.sum(0)


class Inverse(LossWeighting):
    """Takes its argument for a tensor."""

    def factors(self, losses: Any) -> Tensor:
        factors: Tensor = 1 / losses
        return factors


def test_an_error_in_the_factors_of_a_rule_says_what_they_are_given() -> None:
    task = Task(name="size", num_outputs=1, loss=mean_squared_error, metrics=())
    model = MultiTaskMethod(nn.Linear(4, SIZE), [nn.Linear(SIZE, 1)], rule=Inverse())
    losses = [y.sum() for y in model(torch.ones(2, 4))]
    with pytest.raises(TypeError) as caught:
        model.backward(losses)
    what = component_of(model, [task])(caught.value)
    assert what == "`factors` of `method`, which is given Losses (values, present), fails"
