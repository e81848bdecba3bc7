"""What is recorded of gradients, against per-task autograd in float64; training stays as it is."""

import math
import re
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import BackwardError, ConfigError
from rotograd_cli.linalg.rotations import haar_rotations
from rotograd_cli.methods.engine.measurement import Measurement
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rule import Losses, LossWeighting
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.losses import mean_squared_error
from rotograd_cli.training.diagnostics import check_user_numbers, measured_record
from rotograd_cli.training.stepper import train_step
from tests.contract.test_methods import METHODS, ROTATED, build, max_num_tasks
from tests.many_ranks import optimizers_of

K, N, D = 3, 6, 8
NAMES = ("a", "b", "c")
Values = dict[str, float]


class Residual(nn.Module):
    """A head that looks at its input twice, and writes into what it has of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(D, D)
        self.last = nn.Linear(D, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Prediction, shape ``[N, 1]``."""
        return self.last(z + self.first(z).relu_() * z)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(D, 3), nn.Tanh(), nn.Linear(3, 1))


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(D, 2, 2), nn.Flatten(), nn.Linear(2, 1))


HEADS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(D, 1),
    "mlp": mlp,
    "residual": Residual,
    "in_place": lambda: nn.Sequential(nn.ReLU(inplace=True), mlp()),
    "conv": conv,
    "none": nn.Identity,
}
PLAIN = [(method, "mlp") for method in METHODS] + [("vanilla", kind) for kind in HEADS]
CASES = [*PLAIN, *((m, "linear") for m in ROTATED), ("pcgrad", "conv"), ("gradnorm", "residual")]
CASES += [("rotograd", kind) for kind in ("mlp", "residual", "conv")]


def make(method: str, kind: str, **options: Any) -> tuple[Any, Tensor]:
    """A model in float64 whose rotations have moved, and features."""
    torch.manual_seed(0)
    num = max_num_tasks(method) or K
    shape = (D, 2, 2) if kind == "conv" else (D,)
    heads = [HEADS[kind]() for _ in range(num)]
    if kind == "conv":
        options |= {"post_shape": (2, 2)} if "roto" in method else {}
    model = build(method, heads, feature_shape=shape, **options).double().train()
    if model.rotated is not None:
        model.rotation = haar_rotations(num, D)
        X = model.rotations.free_parameters
        X.data = 0.1 * torch.randn_like(X)
    return model, torch.randn(N, *shape, dtype=torch.float64).requires_grad_()


def losses_of(predictions: Sequence[Tensor]) -> list[Tensor]:
    return [(k + 1) * (p - k).square().mean() + 0.1 for k, p in enumerate(predictions)]


def measured(model: Any, z: Tensor) -> Values:
    measurement = Measurement("full")
    losses = losses_of(model(z))
    model.backward(losses, one_head_per_loss=True, measurement=measurement)
    return measured_record(measurement, NAMES[: len(model.heads)])


def naive_gradients(model: Any, z: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Task gradients at the features and at the heads' inputs, a pass for each task."""
    at_features, at_inputs = [], []
    for k, head in enumerate(model.heads):
        leaf = z.detach().clone().requires_grad_()
        r = leaf * 1
        if model.rotated is not None:
            r = torch.einsum("ij,nj...->ni...", model.rotation[k].detach(), leaf)
        loss = losses_of([torch.empty(0)] * k + [head(r.clone())])[k]
        g, g_input = torch.autograd.grad(loss, (leaf, r))
        at_features.append(g)
        at_inputs.append(g_input)
    return at_features, at_inputs


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def naive(g: Sequence[Tensor], g_input: Sequence[Tensor] | None, update: Tensor) -> Values:
    """Everything that follows from the gradients, in the words of the definitions."""
    names = NAMES[: len(g)]
    result = {f"train/{n}/grad_norm": float(x.norm()) for n, x in zip(names, g, strict=True)}
    result |= {f"train/{names[k]}/cosine_to_update": cosine(x, update) for k, x in enumerate(g)}
    pairs = list(combinations(range(len(g)), 2))
    for suffix, gradients in (("", g), ("_before", g_input)):
        if gradients is None or not pairs:
            continue
        cosines = {(i, j): cosine(gradients[i], gradients[j]) for i, j in pairs}
        result |= {f"train/{names[i]}/{names[j]}/cosine{suffix}": cosines[i, j] for i, j in pairs}
        result[f"train/conflict/rate{suffix}"] = sum(c < 0 for c in cosines.values()) / len(pairs)
        result[f"train/conflict/mean_cosine{suffix}"] = sum(cosines.values()) / len(pairs)
    if pairs:
        terms = [
            float(2 * g[i].norm() * g[j].norm() / (g[i].norm() ** 2 + g[j].norm() ** 2))
            for i, j in pairs
        ]
        result["train/conflict/magnitude_similarity"] = sum(terms) / len(pairs)
    return result


def naive_alignment(model: Any, g: Sequence[Tensor], g_input: Sequence[Tensor]) -> list[float]:
    """The paper's loss of every rotation, from its matrices."""
    mean_norm = torch.stack(list(g)).mean(0).norm()
    v = torch.stack([x / x.norm() for x in g]).mean(0) * mean_norm
    averages = N if g[0].dim() == 4 else 1
    rotations = zip(model.rotation.detach(), g_input, strict=True)
    turned = [(torch.einsum("ij,nj...->ni...", R, v), target) for R, target in rotations]
    return [float((a - b).square().sum()) / averages for a, b in turned]


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_every_number_is_what_autograd_of_each_task_gives(method: str, kind: str) -> None:
    model, z = make(method, kind)
    numbers = torch.get_rng_state()
    g, g_input = naive_gradients(model, z)
    torch.set_rng_state(numbers)
    record = measured(model, z)
    assert z.grad is not None
    rotates = model.rotated is not None
    expected = naive(g, g_input if rotates else None, z.grad)
    for key, value in expected.items():
        assert record.pop(key) == pytest.approx(value, rel=1e-9, abs=1e-9), key
    weights = [record.pop(f"train/{name}/weight", math.nan) for name in NAMES[: len(g)]]
    if "graddrop" in method:  # keeps entries, which no weights do
        assert all(map(math.isnan, weights))
    else:
        combined = sum(w * x for w, x in zip(weights, g, strict=True))
        torch.testing.assert_close(combined, z.grad, rtol=1e-7, atol=1e-9)
    if rotates and model.rotated.aligns:
        factors = weights  # the rotations see the losses with their factors
        if not isinstance(model.rule, LossWeighting):
            losses = torch.stack(losses_of(model(z))).detach()
            of_rule = model.rule.factors(Losses(losses, losses > 0))
            factors = [1.0] * len(g) if of_rule is None else of_rule.tolist()
        g, g_input = ([w * x for w, x in zip(factors, G, strict=True)] for G in (g, g_input))
        for name, value in zip(NAMES, naive_alignment(model, g, g_input), strict=False):
            assert record.pop(f"train/{name}/rotation_loss") == pytest.approx(value, rel=1e-9)
    assert len(record) == (4 * len(g) if rotates else 0)  # the next test has these


def test_angles_are_geodesic_distances() -> None:
    from scipy.linalg import logm

    model, z = make("rotograd", "linear")
    base = model.rotations.base.clone()
    rotation = model.rotation.detach().clone()
    record = measured(model, z)
    for k, name in enumerate(NAMES):
        by_key = {"_distance": base[k].mT @ rotation[k], "_angle_from_identity": rotation[k]}
        for key, R in by_key.items():
            length = torch.from_numpy(logm(R.numpy()).real).norm() / math.sqrt(2)
            value = record[f"train/{name}/rotation{key}"]
            assert value == pytest.approx(math.degrees(float(length)), rel=1e-9)
        assert record[f"train/{name}/rotation_angle"] == pytest.approx(
            record[f"train/{name}/rotation_distance"], rel=1e-9
        )
        assert record[f"train/{name}/orthogonality_error"] < 1e-12
    model.rotations.free_parameters.data *= 100  # beyond half a turn another way is shorter
    record = measured(model, z)
    assert record["train/a/rotation_angle"] > 2 * record["train/a/rotation_distance"]


# ---- steps of training


def tasks_of(num: int) -> list[Task]:
    return [Task(name, 1, mean_squared_error, ()) for name in NAMES[:num]]


def network(method: str, kind: str, **options: Any) -> Any:
    torch.manual_seed(1)
    heads = [HEADS[kind]() for _ in range(max_num_tasks(method) or K)]
    backbone = nn.Sequential(nn.Linear(4, D), nn.Tanh())
    return build(method, heads, backbone, feature_shape=(D,), **options).train()


def batches(num: int, dtype: torch.dtype = torch.float32) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(num, N, 4, generator=generator, dtype=dtype)
    y = torch.randn(num, K, N, generator=generator, dtype=dtype)
    return [Batch(x[i], dict(zip(NAMES, y[i], strict=True))) for i in range(num)]


BITWISE = [*((m, "linear") for m in METHODS), *((m, "residual") for m in ("vanilla", "dwa"))]
BITWISE += [("rotograd", "residual"), ("vanilla", "in_place"), ("rotate + pcgrad", "mlp")]


@pytest.mark.parametrize(("method", "kind"), BITWISE)
def test_training_is_the_same_bit_for_bit(method: str, kind: str) -> None:
    results = []
    for level in (None, "basic", "full"):
        model = network(method, kind)
        optimizers = optimizers_of(model)
        losses = []
        for batch in batches(3):
            measurement = None if level is None else Measurement(level)  # type: ignore[arg-type]
            step = train_step(
                model, tasks_of(len(model)), [batch], optimizers, measurement=measurement
            )
            losses.append(step)
            assert measurement is None or measured_record(measurement, NAMES[: len(model)])
        state = [t for t in model.state_dict().values() if torch.is_tensor(t)]
        results.append([*state, *losses, torch.get_rng_state()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("method", ["vanilla", "rotograd", "pcgrad", "uncertainty", "gradnorm"])
@pytest.mark.parametrize("scale", [None, 1024.0])
def test_micro_batches_have_the_numbers_of_the_whole_batch(
    method: str, scale: float | None
) -> None:
    parts = batches(3, torch.float64)
    x = torch.cat([part.inputs for part in parts])
    y = {name: torch.cat([part.targets[name] for part in parts]) for name in NAMES}
    del parts[1].targets["b"]  # a task may be absent in a part
    y["b"][N : 2 * N] = torch.nan  # the loss leaves these out
    records = []
    for given in (parts, [Batch(x, y)]):
        model = network(method, "mlp").double()
        measurement = Measurement("full")
        train_step(
            model, tasks_of(K), given, optimizers_of(model),
            loss_scale=scale, measurement=measurement,
        )  # fmt: skip
        records.append(measured_record(measurement, NAMES))
    split, whole = records
    assert split.keys() == whole.keys()
    sees_parts = method in ("pcgrad", "rotograd")  # these weigh every micro-batch by itself
    for key, value in whole.items():
        if not (sees_parts and key.endswith(("weight", "cosine_to_update"))):
            assert split[key] == pytest.approx(value, rel=1e-9, abs=1e-11), key


def test_the_weight_of_several_micro_batches_is_that_which_explains_them_best() -> None:
    model, z = make("mgda", "mlp")
    whole, weights, gradients = Measurement("basic"), [], []
    for _ in range(3):
        z = torch.randn_like(z).requires_grad_()
        g, _ = naive_gradients(model, z)
        part = Measurement("basic")
        numbers = torch.get_rng_state()
        for measurement in (part, whole):
            torch.set_rng_state(numbers)
            model.backward(losses_of(model(z)), measurement=measurement)
        weights.append(measured_record(part, NAMES)["train/a/weight"])
        gradients.append(g[0])
    received = torch.cat([w * g for w, g in zip(weights, gradients, strict=True)]).view(-1, 1)
    best = torch.linalg.lstsq(torch.cat(gradients).view(-1, 1), received).solution
    assert len(set(weights)) > 1
    assert measured_record(whole, NAMES)["train/a/weight"] == pytest.approx(float(best), rel=1e-9)


def test_what_does_not_exist_has_no_key() -> None:
    (batch,) = batches(1)
    del batch.targets["c"]
    model = network("vanilla", "mlp")
    nn.init.zeros_(model.heads[1][2].weight)  # so that its gradient is zero
    measurement = Measurement("full")
    train_step(model, tasks_of(K), [batch], [], measurement=measurement)
    record = measured_record(measurement, NAMES)
    assert record.pop("train/a/grad_norm") > 0
    assert record == pytest.approx(
        {"train/a/weight": 1, "train/a/cosine_to_update": 1, "train/b/grad_norm": 0}, abs=1e-6
    )


def test_pairs_of_many_tasks_are_recorded_in_full_alone() -> None:
    names = [f"t{k}" for k in range(11)]
    for level, num in (("basic", 0), ("full", 55)):
        model = build("vanilla", [nn.Linear(D, 1) for _ in names]).train()
        z = torch.randn(N, D, requires_grad=True)
        measurement = Measurement(level)  # type: ignore[arg-type]
        losses = [p.square().mean() for p in model(z)]
        model.backward(losses, one_head_per_loss=True, measurement=measurement)
        record = measured_record(measurement, names)
        assert sum(key.count("/") == 3 for key in record) == num
        assert "train/conflict/rate" in record


def test_numbers_of_a_user_have_names_of_their_own_and_a_value_per_task() -> None:
    values = torch.zeros(K)
    check_user_numbers({"num_chosen": values}, K, "Mine")
    for name in ("weight", "loss", "b/cosine", ""):
        with pytest.raises(ConfigError, match=f"by words without /, .*, got {name!r}"):
            check_user_numbers({name: values}, K, "Mine")
    for wrong in (torch.zeros(2), 1.0):
        with pytest.raises(ConfigError, match=r"must return tensors of shape \[3\]"):
            check_user_numbers({"count": wrong}, K, "Mine")  # type: ignore[dict-item]


def test_the_examples_of_the_page_work(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text()
    rule, loop = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(rule, names)
    model = MultiTaskMethod(nn.Linear(4, D), [mlp(), mlp()], names["Longest"](num_tasks=2))
    x, targets = torch.randn(N, 4), torch.randn(2, N, 1)
    exec(loop, {"model": model, "x": x, "targets": targets, "loss": nn.functional.mse_loss})
    assert model.diagnostics()["num_chosen"].sum() == 1
    assert "tensor" in capsys.readouterr().out


def test_sums_cannot_be_taken_apart_without_the_promise() -> None:
    model, z = make("vanilla", "mlp")
    with pytest.raises(BackwardError, match="needs one_head_per_loss=True with VanillaMTL"):
        model.backward(losses_of(model(z)), measurement=Measurement("basic"))
