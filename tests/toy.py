"""A small data set with three tasks, and networks for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, hash_tensors
from rotograd_cli.methods import RotateOnly, RotoGrad, RotoGradNorm, VanillaMTL
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.models.backbones.mlp import MLP
from rotograd_cli.models.heads import MLPHead
from rotograd_cli.tasks import Task, losses, metrics

NUM_INPUTS = 6
TASKS = (
    Task("kind", 3, losses.cross_entropy, (metrics.accuracy(3),)),
    Task("value", 1, losses.mean_squared_error, (metrics.mse(),)),
    Task("flag", 1, losses.binary_cross_entropy, (metrics.f1(),)),
)
METHODS: dict[str, type[MultiTaskMethod]] = {
    "vanilla": VanillaMTL,
    "rotateonly": RotateOnly,
    "rotograd": RotoGrad,
    "rotogradnorm": RotoGradNorm,
}


class ToyDataset(MultiTaskDataset):
    """Random inputs with targets that depend on them; remembers the training order asked for."""

    name = "toy"
    tasks = TASKS
    input_shape = (NUM_INPUTS,)

    def __init__(
        self, sizes: Sequence[int] = (20, 11, 9), dtype: torch.dtype = torch.float32
    ) -> None:
        generator = torch.Generator().manual_seed(3)
        self.inputs: dict[Split, Tensor] = {}
        self.targets: dict[Split, dict[str, Tensor]] = {}
        self.order: list[int] = []
        splits: tuple[Split, ...] = ("train", "val", "test")
        for split, size in zip(splits, sizes, strict=True):
            x = torch.randn(size, NUM_INPUTS, generator=generator, dtype=dtype)
            self.inputs[split] = x
            self.targets[split] = {
                "kind": x[:, :3].argmax(1),
                "value": x.sum(1),
                "flag": (x[:, 4] > 0).to(dtype),
            }

    def num_examples(self, split: Split) -> int:
        return len(self.inputs[split])

    def batch(self, split: Split, indices: Tensor) -> Batch:
        if split == "train":
            self.order += indices.tolist()
        targets = {name: target[indices] for name, target in self.targets[split].items()}
        return Batch(self.inputs[split][indices], targets)

    @property
    def fingerprint(self) -> str:
        return hash_tensors(*self.inputs.values())


def toy_model(method: str = "vanilla", dtype: torch.dtype = torch.float32) -> MultiTaskMethod:
    """A network for the three tasks, the same for every method."""
    torch.manual_seed(0)
    backbone = MLP(input_shape=(NUM_INPUTS,), hidden=[8], num_features=5)
    heads = [MLPHead(feature_shape=(5,), num_outputs=task.num_outputs, hidden=[]) for task in TASKS]
    options = {"vanilla": {}, "rotogradnorm": {"alpha": 0.5}}.get(method, {})
    arguments = () if method == "vanilla" else (4,)  # rotation of 4 of the 5 features
    return METHODS[method](backbone, heads, *arguments, **options).to(dtype)
