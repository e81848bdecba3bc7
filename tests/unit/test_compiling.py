"""`compile=true`: the same numbers from compiled backbone and heads, each as one graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from rotograd_cli.errors import ConfigError, RankError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.ranks.base import ONE
from rotograd_cli.ranks.layers import see_whole_batch
from rotograd_cli.training.evaluation import evaluate
from rotograd_cli.training.precision import compilation, compile_networks
from rotograd_cli.training.stepper import train_step
from tests.contract.test_methods import build
from tests.toy import METHODS, NUM_INPUTS, TASKS, ToyDataset

pytestmark = pytest.mark.filterwarnings("default")  # torch's own, of what it compiles


def network(method: str, hidden: int | None) -> MultiTaskMethod:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(NUM_INPUTS, 6), nn.BatchNorm1d(6), nn.Tanh())
    first = [] if hidden is None else [nn.Linear(6, hidden), nn.Tanh()]
    heads = [nn.Sequential(*first, nn.Linear(hidden or 6, task.num_outputs)) for task in TASKS]
    model: MultiTaskMethod = build(method, heads, backbone)
    return model.double().train()


def trained(model: MultiTaskMethod) -> dict[str, Any]:
    """A few steps, and an evaluation of a smaller last batch; what came out."""
    dataset = ToyDataset(dtype=torch.float64)
    groups = (list(model.model_parameters()), list(model.mtl_parameters()))
    optimizers = [torch.optim.SGD(group, lr=0.1) for group in groups if group]
    for start in (0, 5, 10):
        batch = dataset.batch("train", torch.arange(start, start + 5))
        train_step(model, TASKS, [batch], optimizers)
    parts = [torch.arange(0, 8), torch.arange(8, 11)]
    return {
        "metrics": evaluate(model, TASKS, dataset.batches("val", parts), "val"),
        "state": model.state_dict(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [None, 4])
@pytest.mark.parametrize("method", METHODS)
def test_compiled_networks_train_to_the_same_numbers(method: str, hidden: int | None) -> None:
    wanted = trained(network(method, hidden))
    model = network(method, hidden)
    compile_networks((model.backbone, *model.heads))
    torch.compiler.reset()  # what other tests have compiled
    before = graphs()
    with compilation(True):
        found = trained(model)
    assert graphs() > before  # they do not run eagerly
    torch.testing.assert_close(found["state"], wanted["state"], rtol=1e-10, atol=1e-12)
    assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-10)


def graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


class Breaking(nn.Module):
    """A network that looks at a number in the middle of its forward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.tanh() if float(x.sum()) > 0 else x


def test_a_network_that_is_no_one_graph_is_refused_in_one_line() -> None:
    network = Breaking()
    compile_networks([network])
    with pytest.raises(ConfigError, match=r"cannot be true here: torch\.comp"), compilation(True):
        network(torch.ones(3))


def test_names_and_state_of_compiled_networks_stay_as_they_are() -> None:
    model = network("rotograd", 4)
    names = list(model.state_dict())
    compile_networks((model.backbone, *model.heads))
    assert list(model.state_dict()) == names


def test_compiled_networks_run_as_they_are_written_where_asked() -> None:
    """Hooks inside them are called, which a compiled network does not promise."""
    network, seen = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), []
    compile_networks([network])
    network[0].register_forward_hook(lambda *_: seen.append(1))
    with torch.compiler.set_stance("force_eager"):
        network(torch.ones(2, 3))
    assert seen == [1]


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(6), nn.Dropout(0.5)])
def test_layers_that_ranks_share_are_not_compiled(layer: nn.Module) -> None:
    """A collective operation inside a compiled graph could wait for ever."""
    model = build("vanilla", [nn.Linear(6, 1)], nn.Sequential(nn.Linear(4, 6), layer))
    compile_networks((model.backbone, *model.heads))
    with pytest.raises(RankError, match=r"`compile` must be false .*, got backbone\.1 \("):
        see_whole_batch(model, ONE)


def test_errors_of_other_kinds_are_left_alone() -> None:
    def fail() -> Callable[[], None]:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"), compilation(True):
        fail()
