"""torch.export of methods as they are, and the files of networks for inference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.folding import fold_tasks
from rotograd_cli.runs.export_formats import FORMATS, NamedTasks
from tests.contract.test_methods import METHODS, build, max_num_tasks, node_of

pytestmark = pytest.mark.filterwarnings("default")  # torch's own, of what it exports

MAP = (6, 4, 4)
HEADS: dict[str, tuple[Callable[[int], list[nn.Module]], dict[str, Any]]] = {
    "linear": (lambda o: [nn.Flatten(), nn.Linear(96, o)], {"rotation_shape": MAP}),
    "mlp": (
        lambda o: [nn.Flatten(), nn.Linear(96, 8), nn.ReLU(), nn.Linear(8, o)],
        {"rotation_shape": (2, 4, 4)},
    ),
    "convolution": (
        lambda o: [nn.Conv2d(6, 3, 3), nn.ReLU(), nn.Conv2d(3, o, 1)],
        {"rotation_shape": 5, "post_shape": (4, 4)},
    ),
    "activation first": (
        lambda o: [nn.Tanh(), nn.Flatten(), nn.Linear(96, o)],
        {"rotation_shape": 4, "post_shape": (-1, -1)},
    ),
}


def network(method: str, heads: str) -> Any:
    """A method as the runner builds it, away from its start, in float64."""
    layers, rotation = HEADS[heads]
    rotates = "rotation_shape" in node_of(method)
    backbone = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    every = [nn.Sequential(*layers(k + 1)) for k in range(min(2, max_num_tasks(method) or 2))]
    model = build(method, every, backbone, feature_shape=MAP, **(rotation if rotates else {}))
    if rotates:
        model.rotations.free_parameters.detach().normal_(std=0.3)
    return model.double().eval()


def images(num: int) -> Tensor:
    return torch.randn(num, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def assert_exports(module: nn.Module) -> None:
    """The program has the module's numbers, for another number of examples too."""
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (images(3),), dynamic_shapes=batch)
    torch.testing.assert_close(
        program.module()(images(5)), module(images(5)), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("heads", HEADS)
def test_a_task_of_a_rotated_network_exports(heads: str) -> None:
    assert_exports(network("rotograd", heads)[1].eval())


@pytest.mark.slow
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_exports_as_a_whole_and_by_task(method: str, heads: str) -> None:
    model = network(method, heads)
    assert_exports(model)
    assert_exports(model[len(model) - 1].eval())


def test_a_method_in_training_mode_is_not_exported() -> None:
    model = network("rotograd", "linear").train()
    with pytest.raises(
        ConfigError, match=r"RotoGrad must be in evaluation mode .* model\.eval\(\)"
    ):
        torch.export.export(model, (images(3),))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_predicts_for_any_number_of_examples(form: str) -> None:
    """Names of tasks may be those of operations, or of the input's axis."""
    model = network("rotograd", "convolution").float()
    names = ["relu", "batch"]
    example = images(4).float()
    networks = NamedTasks(fold_tasks(model, example, [1, 0]), names)
    content = FORMATS[form]().write(networks, example, '{"a": 1}')
    assert b"/test_exporting.py" not in content
    for num in (1, 2, 7):
        x = images(num).float()
        found = FORMATS[form]().predict(content, x)
        assert list(found) == names
        with torch.no_grad():
            expected = dict(zip(names, model(x)[::-1], strict=True))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
