"""Components of a user with one thing wrong each; an option ``kind`` says which."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, hash_tensors
from rotograd_cli.methods.rule import Weighting
from rotograd_cli.methods.vanilla import VanillaMTL
from rotograd_cli.tasks import Task, select_tasks
from rotograd_cli.tasks.losses import binary_cross_entropy, cross_entropy, mean_squared_error
from rotograd_cli.tasks.metrics import MetricSpec, accuracy, f1, mse

NAN = float("nan")


def below_zero(prediction: Tensor, target: Tensor) -> Tensor:
    """As the loss of a density: below zero once something is learned."""
    return F.mse_loss(prediction.squeeze(1), target) - 2.0


def broadcasting(prediction: Tensor, target: Tensor) -> Tensor:
    """The usual mistake: ``[N, 1]`` against ``[N]``."""
    return (prediction - target).square().mean()


def broadcasting_with_a_warning(prediction: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(prediction, target)


def not_reduced(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.squeeze(1) - target).square()


def detached(prediction: Tensor, target: Tensor) -> Tensor:
    return mean_squared_error(prediction.detach(), target)


def a_number(prediction: Tensor, target: Tensor) -> Any:
    return mean_squared_error(prediction, target).item()


def unbatchable(prediction: Tensor, target: Tensor) -> Tensor:
    loss = mean_squared_error(prediction, target)
    return loss if loss.item() > 0 else loss * 0


def count_without_tensors(target: Tensor) -> Any:
    return len(target)


def writing(prediction: Tensor, target: Tensor) -> Tensor:
    target[target > 1] = 1.0
    return mean_squared_error(prediction, target)


def failing(prediction: Tensor, target: Tensor) -> Tensor:
    raise KeyError("scale")


def _mean_of_nan(prediction: Tensor, target: Tensor) -> Tensor:
    return not_reduced(prediction, target).mean()


LOSSES = {
    "negative": below_zero,
    "broadcasting": broadcasting,
    "broadcasting_with_a_warning": broadcasting_with_a_warning,
    "not_reduced": not_reduced,
    "detached": detached,
    "a_number": a_number,
    "failing": failing,
    "writing": writing,
    "unbatchable": unbatchable,
    "nan_and_own_loss": _mean_of_nan,
}


class Faulty(MultiTaskDataset):
    """Three tasks over eight inputs."""

    name, input_shape = "faulty", (8,)

    def __init__(
        self, *, data_dir: Path, tasks: Sequence[str] | None, device: torch.device, kind: str
    ) -> None:
        self.kind = kind
        if kind == "init":
            raise KeyError("split.csv")
        metrics: tuple[MetricSpec, ...] = (mse(),)
        if kind == "metric":
            metrics = (MetricSpec("fit", "higher", mse().create, lambda x: x.no_such_thing),)
        loss = LOSSES.get(kind, mean_squared_error)
        count = count_without_tensors if kind == "count" else None
        at_once = kind == "unbatchable"
        size_loss = loss if at_once else mean_squared_error
        self.tasks = select_tasks(
            [
                Task("size", 1, size_loss, (mse(),), batchable=at_once),
                Task("spread", 1, loss, metrics, batchable=at_once, count=count),
                Task("label", 3, cross_entropy, (accuracy(3),)),
                Task("flag", 1, binary_cross_entropy, (f1(),)),
            ],
            tasks,
        )
        generator = torch.Generator().manual_seed(0)
        self.num = {"train": 96, "val": 48, "test": 48}
        if kind.startswith("no_"):
            self.num[kind.removeprefix("no_")] = 0
        self.x = {s: torch.randn(n, 8, generator=generator).to(device) for s, n in self.num.items()}

    def num_examples(self, split: Split) -> int:
        return self.num[split]

    def batch(self, split: Split, indices: Tensor) -> Any:
        x = self.x[split][indices]
        part = indices % 3 == 0
        targets = {
            "size": x.mean(1),
            "spread": x.std(1),
            "label": x[:, :3].argmax(1),
            "flag": (x[:, 0] > 0).float(),
        }
        change = getattr(self, f"_{self.kind}", None)
        if change is not None:
            x, targets = change(x, targets, part, split, indices)
        if self.kind == "tuple":
            return x, targets
        return Batch(x, {t.name: targets[t.name] for t in self.tasks if t.name in targets})

    @property
    def fingerprint(self) -> str:
        return hash_tensors(*self.x.values())

    def _minus_one(self, x: Tensor, t: dict[str, Tensor], part: Tensor, *_: Any) -> Any:
        return x, {**t, **{name: t[name].masked_fill(part, -1) for name in ("label", "flag")}}

    def _nan_targets(self, x: Tensor, t: dict[str, Tensor], part: Tensor, *_: Any) -> Any:
        return x, {**t, **{name: t[name].masked_fill(part, NAN) for name in ("size", "spread")}}

    _nan_and_own_loss = _nan_targets

    def _absent(self, x: Tensor, t: dict[str, Tensor], part: Tensor, split: str, _: Any) -> Any:
        return x, t if split == "train" else {k: v for k, v in t.items() if k != "spread"}

    def _unlabelled(self, x: Tensor, t: dict[str, Tensor], part: Tensor, split: str, _: Any) -> Any:
        return x, {**t, "spread": t["spread"] * NAN} if split == "val" else t

    def _untrained(self, x: Tensor, t: dict[str, Tensor], part: Tensor, split: str, _: Any) -> Any:
        return x, {**t, "spread": t["spread"] * NAN} if split == "train" else t

    def _late(self, x: Tensor, t: dict[str, Tensor], part: Tensor, split: str, i: Tensor) -> Any:
        return x, {**t, "spread": t["spread"].masked_fill(i < 40, NAN)}

    def _column(self, x: Tensor, t: dict[str, Tensor], *_: Any) -> Any:
        return x, {**t, "size": t["size"].unsqueeze(1)}

    def _float_labels(self, x: Tensor, t: dict[str, Tensor], *_: Any) -> Any:
        return x, {**t, "label": t["label"].float()}

    def _label_3(self, x: Tensor, t: dict[str, Tensor], *_: Any) -> Any:
        return x, {**t, "label": t["label"] + 1}

    def _last_label(self, x: Tensor, t: dict[str, Tensor], p: Tensor, s: str, i: Tensor) -> Any:
        return x, {**t, "label": t["label"].masked_fill(i == self.num[s] - 1, 7)}

    def _flag_2(self, x: Tensor, t: dict[str, Tensor], *_: Any) -> Any:
        return x, {**t, "flag": t["flag"] * 2}

    def _signs(self, x: Tensor, t: dict[str, Tensor], *_: Any) -> Any:
        return x, {**t, "flag": t["flag"] * 2 - 1}

    def _infinite(self, x: Tensor, t: dict[str, Tensor], part: Tensor, *_: Any) -> Any:
        return x, {**t, "size": t["size"].masked_fill(part, float("inf"))}

    def _float64(self, x: Tensor, t: dict[str, Tensor], *_: Any) -> Any:
        return x.double(), t

    def _uint8(self, x: Tensor, t: dict[str, Tensor], *_: Any) -> Any:
        return (x * 20 + 128).clamp(0, 255).to(torch.uint8), t

    def _nan_inputs(self, x: Tensor, t: dict[str, Tensor], part: Tensor, *_: Any) -> Any:
        return x.masked_fill(part.unsqueeze(1), NAN), t

    def _nan_test_inputs(self, x: Tensor, t: dict[str, Tensor], p: Tensor, s: str, i: Any) -> Any:
        return x.masked_fill((i == 40).unsqueeze(1), NAN) if s == "test" else x, t

    def _wide(self, x: Tensor, t: dict[str, Tensor], *_: Any) -> Any:
        return x.repeat(1, 2), t

    def _numpy(self, x: Tensor, t: dict[str, Tensor], *_: Any) -> Any:
        return x.numpy(), t

    def _list(self, x: Tensor, t: dict[str, Tensor], *_: Any) -> Any:
        return x, {**t, "size": t["size"].tolist()}

    def _short(self, x: Tensor, t: dict[str, Tensor], *_: Any) -> Any:
        return x, {**t, "size": t["size"][1:]}

    def _broken(self, x: Tensor, t: dict[str, Tensor], part: Tensor, split: str, _: Any) -> Any:
        if split == "test":
            raise LookupError("no such frame")
        return x, t


class FaultyBackbone(nn.Module):
    """A linear layer; the kinds ``train`` and ``dict`` fail."""

    def __init__(self, *, input_shape: Sequence[int], kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "init":
            raise RuntimeError("no weights")
        self.linear = nn.Linear(input_shape[0], 6)

    def forward(self, x: Tensor) -> Any:
        if self.kind == "train" and self.training:
            raise NotImplementedError("only for evaluation")
        features = self.linear(x)
        if self.kind == "sum":
            return features.sum()
        return {"features": features} if self.kind == "dict" else features


class FaultyHead(nn.Module):
    """A linear layer; the kinds ``dict`` and ``fails`` fail."""

    def __init__(self, *, feature_shape: Sequence[int], num_outputs: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(feature_shape[0], num_outputs)

    def forward(self, z: Tensor) -> Any:
        if self.kind == "fails" or (self.kind == "train" and self.training):
            raise ZeroDivisionError("by zero")
        return {"logits": self.linear(z)} if self.kind == "dict" else self.linear(z)


class FaultyMethod(VanillaMTL):
    """Vanilla; the kind says which part fails."""

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        *,
        feature_shape: Sequence[int],
        kind: str,
    ) -> None:
        super().__init__(backbone, heads, feature_shape=feature_shape)
        self.kind = kind

    def backward(self, *args: Any, **options: Any) -> Tensor:
        if self.kind == "backward":
            raise AttributeError("no weights yet")
        return super().backward(*args, **options)

    def end_epoch(self) -> None:
        if self.kind == "end_epoch":
            raise IndexError("no epoch")


class ClosureOptimizer(torch.optim.SGD):
    """As sharpness-aware optimisers do: the closure is optional by signature alone."""

    def step(self, closure: Any = None) -> Any:
        assert closure is not None, "a closure is required"


class NoNetwork:
    """A backbone, head or method that is no module, and takes whatever it is given."""

    def __init__(self, *positional: Any, **arguments: Any) -> None:
        del positional, arguments


class UninitialisedRule(Weighting):
    """A rule without ``super().__init__()``."""

    def __init__(self, *, kind: str) -> None:
        self.kind = kind

    def weights(self, steps: Any) -> Tensor:
        return torch.ones_like(steps.norms)
