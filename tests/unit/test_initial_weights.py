"""``init_from``: which tensors of which file go where, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose
from torch import Tensor, nn

from rotograd_cli.config.compose import composing
from rotograd_cli.config.schema import TrainConfig, to_train_config
from rotograd_cli.errors import CheckpointError, ConfigError
from rotograd_cli.models.features import weight_for_channels
from rotograd_cli.ranks.base import ONE
from rotograd_cli.runs.initial_weights import _state, load_initial_weights
from rotograd_cli.runs.saved import key
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.losses import mean_squared_error
from rotograd_cli.training.checkpoint import load_checkpoint
from tests.contract.test_methods import build
from tests.samplers import SIZE
from tests.skews import unpacked
from tests.unit.test_loop import trainer

NAMES = ("a", "b")
TASKS = [Task(name, 1, mean_squared_error, ()) for name in NAMES]


class Network(nn.Module):
    """A backbone that does nothing but hold one network."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        layers = (nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(SIZE))
        self.network = nn.Sequential(*layers)
        self.network(torch.zeros(2, channels, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x)
        return output


def model_of(seed: int, method: str = "rotograd", backbone: nn.Module | None = None) -> Any:
    torch.manual_seed(seed)
    model = build(method, [nn.Linear(SIZE, 1) for _ in NAMES], backbone or Network())
    nn.init.constant_(model.rotations.free_parameters, seed)  # whose start is not the seed's here
    return model


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    with composing():
        return to_train_config(compose("train"))


def loaded(config: TrainConfig, file: Path, what: str = "backbone", **options: Any) -> Any:
    """A model that began with a file, and the report."""
    model = options.pop("model", None) or model_of(1, **options)
    changed = dataclasses.replace(config, init_from=str(file), init_what=what)
    report = load_initial_weights(model, to_train_config(vars(changed)), TASKS, ONE)
    return model, report


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def layouts() -> dict[str, Any]:
    """The ways in which other code saves the network inside of a backbone."""
    state = Network().network.state_dict()

    def below(prefix: str) -> dict[str, Tensor]:
        return {prefix + name: x for name, x in state.items()}

    return {
        "plain": state,
        "state_dict": {"epoch": 3, "state_dict": below("module.")},
        "model": {"model": below("backbone."), "optimizer": {}},
        "two levels": below("model.encoder."),
        "beside others": {**below("module.backbone."), "module.head.weight": torch.zeros(2, 2)},
        "half": {name: x.half() if x.is_floating_point() else x for name, x in state.items()},
    }


@pytest.mark.parametrize("layout", layouts())
def test_a_backbone_is_found_in_the_files_of_others(
    config: TrainConfig, tmp_path: Path, layout: str
) -> None:
    torch.manual_seed(5)
    content = layouts()[layout]
    torch.save(content, tmp_path / "w.pth")
    model, report = loaded(config, tmp_path / "w.pth")
    torch.manual_seed(5)
    expected = layouts()[layout]
    while not all(isinstance(x, Tensor) for x in expected.values()):
        expected = next(x for x in expected.values() if isinstance(x, dict))
    values = [x for name, x in expected.items() if "head" not in name and x.is_floating_point()]
    found = [x for x in model.backbone.state_dict().values() if x.is_floating_point()]
    for x, y in zip(found, values, strict=True):
        assert torch.equal(x, y.float())
    assert report[1] == "  backbone: 9 of 9 tensors"
    assert not equal(model.heads, model_of(5).heads)


def test_all_takes_heads_by_task_and_the_method_only_with_the_same_tasks(
    config: TrainConfig, tmp_path: Path
) -> None:
    source = model_of(7)
    torch.save({"model": source.state_dict()}, tmp_path / "w.pt")
    model, report = loaded(config, tmp_path / "w.pt", "all")
    assert equal(model, source)
    assert torch.equal(model.rotation, source.rotation)
    assert report[-1].startswith("  method: ")

    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"model": source.state_dict()}, folder / "best.pt")
    (tmp_path / "run" / "summary.json").write_text('{"tasks": ["b", "c"]}')
    model, report = loaded(config, tmp_path / "run", "all")
    assert equal(model.heads[1], source.heads[0])  # task b
    assert not equal(model.heads[0], source.heads[0])
    assert not torch.equal(model.rotation, source.rotation)
    assert report[2:] == [
        "  head of a: 0 of 2 tensors; not in the file: weight, bias",
        "  head of b: 2 of 2 tensors",
        "  method: 0 of 11 tensors; the file's is of other tasks",
    ]


def test_what_does_not_fit_stays_as_it_was_drawn(config: TrainConfig, tmp_path: Path) -> None:
    state = model_of(7).state_dict()
    state["heads.0.weight"] = torch.zeros(9, SIZE)
    state["rotations.manifold.base"] = torch.eye(4).repeat(2, 1, 1)
    torch.save(state, tmp_path / "w.pt")
    model, report = loaded(config, tmp_path / "w.pt", "all")
    drawn = model_of(1)
    assert torch.equal(model.heads[0].weight, drawn.heads[0].weight)
    assert not torch.equal(model.heads[0].bias, drawn.heads[0].bias)
    assert torch.equal(model.rotation, drawn.rotation)
    assert "  head of a: 1 of 2 tensors; of another shape: weight [9, 6] for [1, 6]" in report
    assert report[-1].endswith("tensors; the file's is of another method or shape")


def test_the_first_convolution_fits_other_channels(config: TrainConfig, tmp_path: Path) -> None:
    source = Network()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    backbone = Network(1).requires_grad_(False)
    backbone.network[3] = nn.Linear(16, SIZE)
    model, _ = loaded(config, tmp_path / "w.pt", model=model_of(0, backbone=backbone))
    gray = torch.randn(2, 1, 4, 4)
    expected = source.network[0](gray.expand(-1, 3, -1, -1))
    torch.testing.assert_close(model.backbone.network[0](gray), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_the_response_to_a_gray_image_stays(channels: int) -> None:
    weight = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    gray = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    expected = nn.functional.conv2d(gray.expand(-1, 3, -1, -1), weight)
    adapted = weight_for_channels(weight, channels)
    found = nn.functional.conv2d(gray.expand(-1, channels, -1, -1), adapted)
    torch.testing.assert_close(found, expected)


def test_a_file_that_does_not_fit_is_refused_in_one_line(
    config: TrainConfig, tmp_path: Path
) -> None:
    file = tmp_path / "w.pt"
    state = Network().state_dict()
    cases = {
        "backbone: 2 of 9 tensors; not in the file: network.0.bias": {
            "network.0.weight": torch.zeros(4, 3, 3, 3)
        },
        r"8 of 9 tensors; of another shape: network.3.weight \[5, 9\] for \[6, 16\]": {
            **state,
            "network.3.weight": torch.zeros(5, 9),
        },
        "must hold tensors by name": {"epoch": 3},
        "it is damaged, or holds more than tensors": {"x": nn.ReLU()},
    }
    for message, content in cases.items():
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=message) as error:
            loaded(config, file)
        assert "\n" not in str(error.value)
    file.write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match="it is damaged"):
        loaded(config, file)
    torch.save({"x": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match="holds nothing of this model"):
        loaded(config, file, "all")
    with pytest.raises(ConfigError, match="nowhere, which does not exist"):
        loaded(config, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="a folder without checkpoints"):
        loaded(config, tmp_path)


def test_the_content_of_the_file_is_part_of_the_runs_identity(
    config: TrainConfig, tmp_path: Path
) -> None:
    file = tmp_path / "w.pt"
    named = {**vars(config), "init_from": str(file)}
    keys = []
    for value in (0.0, 1.0):
        torch.save({"network.0.weight": torch.full((4, 3, 3, 3), value)}, file)
        keys.append(key(dataclasses.asdict(to_train_config(named))))
    assert len({*keys, key(dataclasses.asdict(config))}) == 3
    known = to_train_config({**named, "init_sha256": "0" * 64})
    with pytest.raises(ConfigError, match="the file has changed"):
        load_initial_weights(model_of(0), known, TASKS, ONE)
    with pytest.raises(ConfigError, match="got init_from=null"):
        to_train_config({**vars(config), "init_what": "all"})


def test_safetensors_are_read(config: TrainConfig, tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    source = Network()
    library.save_file(source.state_dict(), tmp_path / "w.safetensors")
    model, _ = loaded(config, tmp_path / "w.safetensors")
    assert equal(model.backbone, source)


def test_rotations_that_an_earlier_version_saved_as_matrices_are_read(
    config: TrainConfig, tmp_path: Path
) -> None:
    source = model_of(2)
    state = source.state_dict()
    name = "rotations.free_parameters"
    torch.save({**state, name: unpacked(state[name])}, tmp_path / "old.pt")
    model, report = loaded(config, tmp_path / "old.pt", "all")
    assert equal(model, source)
    assert not any("another" in line for line in report)


def test_a_backbone_needs_no_bases_and_a_method_needs_its_own(
    config: TrainConfig, tmp_path: Path
) -> None:
    loop = trainer(tmp_path / "checkpoints", "rotograd", epochs=1)
    loop.fit()
    best = tmp_path / "checkpoints" / "best.pt"
    state = load_checkpoint(best)["model"]
    assert _state(best, "all").keys() == state.keys()
    for file in best.parent.glob("bases.*"):
        file.unlink()
    assert _state(best, "backbone").keys() == state.keys() - {"rotations.manifold.base"}
    with pytest.raises(CheckpointError, match="with the bases of its rotations"):
        _state(best, "all")
