"""A loop as a user writes it, in one process or in many after `distribute`."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rotograd_cli import methods
from rotograd_cli.errors import RankError
from rotograd_cli.ranks.base import Ranks
from rotograd_cli.ranks.many import ManyRanks
from tests.contract.test_methods import FILES as METHODS
from tests.contract.test_methods import build, max_num_tasks

NUM, STEPS = 12, 3
VARIANTS = ("plain", "micro", "scaled")
CASES = [
    f"{method}/{variant}"
    for index, method in enumerate(METHODS)
    for variant in (VARIANTS if method in ("rotograd", "famo") else [VARIANTS[index % 3]])
] + ["pcgrad/parameters", "imtlg/parameters"]


def make_model(method: str, seed: int, **options: Any) -> Any:
    torch.manual_seed(seed)
    backbone = nn.Sequential(
        nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Tanh()
    )
    heads = [nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)) for _ in range(3)]
    model = build(method, heads[: max_num_tasks(method)], backbone, **options)
    for p in (*model.backbone.parameters(), *model.heads.parameters()):
        torch.nn.init.normal_(p, std=0.5 + seed)
    return model.double().train()


def data(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(NUM, 5, generator=generator, dtype=torch.float64)
    return x, torch.randn(NUM, 3, generator=generator, dtype=torch.float64) + x.sum(1, True)


def losses_of(model: Any, x: Tensor, targets: Tensor, present: int) -> list[Tensor | None]:
    pairs = zip(model(x), targets.unbind(1), strict=False)
    losses: list[Tensor | None] = [(y.squeeze(1) - t).square().mean() + 0.1 for y, t in pairs]
    return losses[:present] + [None] * (len(losses) - present)


def loop(method: str, variant: str, rank: int, size: int) -> dict[str, Tensor]:
    """A few steps, of a rank whose model and generators began in another way."""
    options = {"gradients": "parameters"} if variant == "parameters" else {}
    model = make_model(method, seed=rank, **options)
    torch.manual_seed(7 + rank)
    model = methods.distribute(model)
    groups = [list(model.model_parameters()), list(model.mtl_parameters())]
    optimizers = [torch.optim.Adam(group, lr=0.01) for group in groups if group]
    num = 2 if variant in ("micro", "parameters") else 1
    scale = 8.0 if variant == "scaled" else None
    for step in range(STEPS):
        present = 2 if step == 1 and len(model) > 1 else len(model)
        parts = [
            [t.tensor_split(size)[rank] for t in (x, y)]
            for x, y in zip(*(t.chunk(num) for t in data(step)), strict=True)
        ]
        before = torch.zeros(len(model), dtype=torch.float64)
        for index, part in enumerate(parts):
            more = index < num - 1
            with model.ranks.accumulating(more):
                losses = losses_of(model, *part, present)
                given = [None if x is None else x * (scale or 1) / num for x in losses]
                regulariser = (scale or 1) / num * model.rep.square().mean()
                more_options = {"num_micro_batches": num, "accumulating": more, "loss_scale": scale}
                before += model.backward(given, regulariser, **more_options) / (scale or 1)
        for p in model.parameters():
            p.grad = None if p.grad is None else p.grad / (scale or 1)
        optimizers[0].step()
        if model.needs_losses_after_update:
            model.eval()  # dropout draws nothing here
            with torch.no_grad():
                whole = [torch.cat(t) for t in zip(*parts, strict=True)]
                after = losses_of(model, *whole, present)
            model.train()
            filled = torch.stack([before[0] * 0 if x is None else x for x in after])
            model.observe_update(before, filled, torch.arange(len(model)) < present)
        for optimizer in optimizers[1:]:
            optimizer.step()
        model.zero_grad()
        model.end_epoch()
    state = {k: v for k, v in model.state_dict().items() if torch.is_tensor(v)}
    return {**state, "draw": torch.rand(3)}


def train_all(ranks: Ranks) -> dict[str, Any]:
    return {case: loop(*case.split("/"), ranks.rank, ranks.size) for case in CASES}


def refusals(ranks: Ranks) -> dict[str, str]:
    """What wrong loops are told; without an answer, ranks would wait for each other."""
    x, targets = (t.tensor_split(ranks.size)[ranks.rank] for t in data(0))
    wrong: dict[str, Callable[[Any], object]] = {
        "uneven": lambda m: m.backward(losses_of(m, x[ranks.rank :], targets[ranks.rank :], 3)),
        "absent": lambda m: m.backward(losses_of(m, x, targets, 3 - ranks.rank)),
        "uncleared": lambda m: [m.backward(losses_of(m, x, targets, 3)) for _ in range(2)],
        "micro": lambda m: m.backward(losses_of(m, x, targets, 3), accumulating=True),
    }
    result = {
        name: _error(call, methods.distribute(make_model("rotograd", 0)))
        for name, call in wrong.items()
    }
    model = make_model("pcgrad", 0)
    wrapped = DistributedDataParallel(model)
    result["wrapped"] = _error(lambda m: m.backward(losses_of(wrapped, x, targets, 3)), model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = make_model("pcgrad", 0)
        model.backward(losses_of(model, x, targets, 3))
    result["alone"] = str(caught[0].message)
    joined = make_model("pcgrad", 0)
    joined.join(ManyRanks())  # as the runner does
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        joined.backward(losses_of(joined, x, targets, 3))
    return result


def _error(call: Callable[[Any], object], model: Any) -> str:
    try:
        call(model)
    except RankError as error:
        return str(error)
    return ""
