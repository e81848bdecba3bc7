"""Training steps that N processes share, and the same steps in one process."""

import os
import pkgutil
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from rotograd_cli.data.base import Batch, in_parts
from rotograd_cli.methods.engine.measurement import Measurement
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rotation import plan
from rotograd_cli.methods.vanilla import VanillaMTL
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.losses import (
    depth_l1,
    mean_squared_error,
    segmentation_cross_entropy,
)
from rotograd_cli.tasks.metrics import depth, mse, normals, segmentation
from rotograd_cli.training.diagnostics import measured_record
from rotograd_cli.training.evaluation import evaluate, parts_of_rank
from rotograd_cli.training.stepper import train_step
from tests.contract.test_methods import FILES as METHODS
from tests.contract.test_methods import build, max_num_tasks, node_of
from tests.forked import forkserver
from tests.waiting import PATIENCE_S

BATCH = 12
STEPS = 3
SHAPES = ("vector", "general", "map", "sequence", "norm", "dropout")
QUICK = "rotograd rotogradnorm vanilla pcgrad gradnorm@parameters"
SOME = os.environ.get("ROTOGRAD_TEST_RANKS_OF", QUICK).split()  # the environment of every rank
SHARING = ("general", "map")  # where ranks share the work of rotations, however small


def tasks_of(shape: str, num: int) -> list[Task]:
    if shape == "map":
        return [Task(f"t{k}", 3, segmentation_cross_entropy, (), (4, 4)) for k in range(num)]
    return [Task(f"t{k}", 1, _known_error, (), count=_num_known) for k in range(num)]


def _known_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the targets that are no NaN; 0 where all are."""
    known = target.isfinite()
    values = torch.where(known, prediction.squeeze(1) - target.nan_to_num(), 0)
    return values.square().sum() / known.sum().clamp_min(1)


def _num_known(target: Tensor) -> Tensor:
    return target.isfinite().sum()


class _Tokens(nn.Module):
    """Features ``[N, 3, 6]``: two batch axes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 18)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).view(-1, 3, 6).tanh()


class _Pooled(nn.Module):
    """A head that averages over the second batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z.tanh()).mean(1)


def networks(shape: str, num: int) -> tuple[nn.Module, list[nn.Module], tuple[int, ...]]:
    """Backbone, heads and the shape of one example's features."""
    if shape == "map":
        backbone = nn.Sequential(
            nn.Conv2d(2, 6, 3, bias=False, padding=1), nn.BatchNorm2d(6), nn.Tanh()
        )
        return backbone, [nn.Conv2d(6, 3, 1) for _ in range(num)], (6, 4, 4)
    if shape == "sequence":
        return _Tokens(), [_Pooled() for _ in range(num)], (3, 6)
    layers: dict[str, list[nn.Module]] = {
        "norm": [nn.BatchNorm1d(6)],
        "dropout": [nn.Dropout(0.4)],
    }
    # no bias before BatchNorm: its gradient is rounding, which Adam would make a step of
    backbone = nn.Sequential(
        nn.Linear(5, 6, bias=shape != "norm"), *layers.get(shape, []), nn.Tanh()
    )
    if shape == "vector":
        return backbone, [nn.Linear(6, 1) for _ in range(num)], (6,)
    heads = [
        nn.Sequential(nn.Tanh(), nn.Linear(6, 4, bias=shape != "norm"), nn.Linear(4, 1))
        for _ in range(num)
    ]
    if shape == "norm":
        for head in heads:
            head.insert(2, nn.BatchNorm1d(4))
    return backbone, list(heads), (6,)


def make_model(method: str, shape: str) -> tuple[MultiTaskMethod, list[Task]]:
    num = max_num_tasks(method) or 3
    torch.manual_seed(1)
    backbone, heads, _ = networks(shape, num)
    model = build(method, heads, backbone, **_options(method, shape))
    torch.manual_seed(2)
    return model.double().train(), tasks_of(shape, num)


def _options(method: str, shape: str) -> dict[str, Any]:
    """What fits a method to features that are no plain vectors."""
    if shape not in ("map", "sequence"):
        return {}
    trailing = (4, 4) if shape == "map" else ()
    options: dict[str, Any] = {"feature_shape": (6, *trailing)}
    if "rotation_shape" in node_of(method):
        options |= {"rotation_shape": 6, "post_shape": trailing}
    return options


def make_batch(shape: str, tasks: Sequence[Task], step: int, num: int) -> Batch:
    """A batch; the labels of a map are missing unevenly, whole examples of the first task too."""
    generator = torch.Generator().manual_seed(100 + step)
    size = (num, 2, 4, 4) if shape == "map" else (num, 5)
    inputs = torch.randn(size, generator=generator, dtype=torch.float64)
    targets: dict[str, Tensor] = {}
    for k, task in enumerate(tasks):
        if shape == "map":
            labels = torch.randint(-1, 3, (num, 4, 4), generator=generator)
            labels[: num // 3 if k == 0 else 0] = -1
            targets[task.name] = labels
        else:
            target = torch.randn(num, generator=generator, dtype=torch.float64)
            targets[task.name] = target + 3 * k + inputs[:, 0]
    return Batch(inputs, targets)


def rows_of(batch: Batch, choose: Callable[[Tensor], Tensor]) -> Batch:
    return Batch(choose(batch.inputs), {k: choose(v) for k, v in batch.targets.items()})


def without(batch: Batch, names: Sequence[str]) -> Batch:
    return Batch(batch.inputs, {k: v for k, v in batch.targets.items() if k not in names})


def optimizers_of(model: MultiTaskMethod) -> list[torch.optim.Optimizer]:
    groups = (list(model.model_parameters()), list(model.mtl_parameters()))
    return [
        torch.optim.Adam(group, lr=lr)
        for group, lr in zip(groups, (0.01, 0.03), strict=True)
        if group
    ]


def train(
    method: str, shape: str, num: int, accumulate: int, world: int, ranks: Ranks
) -> dict[str, Any]:
    """A few steps; what came out of them.

    In the second step the last task has targets in the rows of the first rank alone, and is no
    target at all of the other ranks; in the third it has none anywhere.
    """
    plan.SHARED_FROM = 0 if shape in SHARING else 2**62
    model, tasks = make_model(method, shape)
    ranks.attach(model, make_batch(shape, tasks, 0, 1).inputs)
    model.join(ranks)
    optimizers = optimizers_of(model)
    losses, records = [], []
    for step in range(STEPS):
        measurement = Measurement("basic")
        micro_batches = []
        whole = make_batch(shape, tasks, step, num)
        for rows in torch.arange(num).chunk(accumulate):
            micro = rows_of(whole, lambda t, rows=rows: t[rows])  # type: ignore[misc]
            last = tasks[-1].name
            if step == 0 and micro_batches:  # no rank has a label
                micro.targets[last].fill_(-1 if shape == "map" else torch.nan)
            if step == 1:
                for others in micro.targets[last].tensor_split(world)[1:]:
                    others.fill_(-1 if shape == "map" else torch.nan)
            part = rows_of(micro, ranks.part)
            if len(tasks) > 1 and (step == 2 or (step == 1 and ranks.rank > 0)):
                part = without(part, [last])
            micro_batches.append(part)
        loss = train_step(
            model, tasks, micro_batches, optimizers, grad_clip_norm=50.0, measurement=measurement
        )
        losses.append(loss)
        records.append(measured_record(measurement, [task.name for task in tasks]))
        model.end_epoch()
    state = {name: value for name, value in model.state_dict().items() if torch.is_tensor(value)}
    losses_and_draw = {"losses": torch.stack(losses), "draw": torch.rand(4)}
    return {"state": state, "records": records, **losses_and_draw}


def cases(world: int, methods: Sequence[str] = METHODS) -> list[tuple[str, str, int, int, int]]:
    """Method, shape, batch size, micro-batches, processes."""
    every = [(method, shape, BATCH, 1, world) for method in methods for shape in SHAPES]
    uneven = [(method, "vector", world * 2 + 1, 1, world) for method in methods]
    uneven += [(method, "map", world + 1, 1, world) for method in methods]
    several = [(method, "general", 2 * (world + 1), 2, world) for method in methods]
    return every + uneven + several


def _worker(rank: int, world: int, folder: str, job: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=PATIENCE_S),
    )
    from rotograd_cli.ranks.many import ManyRanks

    try:
        function = pkgutil.resolve_name(job if ":" in job else f"{__name__}:{job}")
        result = function(ManyRanks())
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the others notice
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def train_some_and_evaluate(ranks: Ranks) -> tuple[dict[str, Any], Any]:
    return _train_all(ranks, SOME), evaluate_all(ranks)


def train_all_and_evaluate(ranks: Ranks) -> tuple[dict[str, Any], Any]:
    return _train_all(ranks, METHODS), evaluate_all(ranks)


def _train_all(ranks: Ranks, methods: Sequence[str]) -> dict[str, Any]:
    every = cases(ranks.size, methods)
    return {"/".join(map(str, case)): train(*case, ranks) for case in every}


def together(world: int, folder: Path, job: str) -> list[Any]:
    """Runs a function, of this module or ``module:name``, in N processes; what each returned."""
    folder.mkdir(parents=True, exist_ok=True)
    forkserver()  # what torch starts here has imported everything
    mp.start_processes(_worker, (world, str(folder), job), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def alone(*case: Any) -> dict[str, Any]:
    return train(*case, ONE)


def evaluate_all(ranks: Ranks) -> dict[str, dict[str, float]]:
    """Metrics of splits that no batch size divides, by number of examples."""
    return {str(num): _evaluate(num, ranks) for num in (1, 7, 12, 23)}


def _evaluate(num: int, ranks: Ranks) -> dict[str, float]:
    tasks = [
        Task("classes", 4, segmentation_cross_entropy, segmentation(4), (4, 4)),
        Task("depth", 1, depth_l1, depth("exact"), (4, 4)),
        Task("pairs", 1, depth_l1, depth("mtan_batch"), (4, 4)),
        Task("normals", 3, mean_squared_error, normals("exact"), (4, 4)),
        Task("angles", 3, mean_squared_error, normals("mtan_batch"), (4, 4)),
        Task("map", 2, mean_squared_error, (mse(),), (4, 4)),
    ]
    torch.manual_seed(3)
    heads = [nn.Conv2d(6, task.num_outputs, 1) for task in tasks]
    model = VanillaMTL(nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh()), heads)
    inputs = torch.randn(num, 2, 4, 4)
    targets = {task.name: torch.randn(num, task.num_outputs, 4, 4) for task in tasks}
    targets["classes"] = torch.randint(-1, 4, (num, 4, 4))
    for name in ("depth", "pairs"):
        targets[name] = targets[name].clamp_min(0)  # 0 is no depth
    model.join(ranks)
    parts = in_parts(torch.arange(num), 3)
    parts = parts_of_rank(parts, ranks.rank, ranks.size)
    batches = [Batch(inputs[i], {k: v[i] for k, v in targets.items()}) for i in parts]
    return evaluate(model, tasks, batches, "val")
