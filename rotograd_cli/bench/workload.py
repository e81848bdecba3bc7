"""The batches that every contender goes through again and again."""

from torch import Tensor

from rotograd_cli.bench.contenders import DTYPES
from rotograd_cli.data.base import Batch, in_parts
from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.config import BenchConfig
from rotograd_cli.runs.experiment import Networks
from rotograd_cli.training.seeding import epoch_order

NUM_BATCHES = 4


def first_batches(config: BenchConfig, networks: Networks) -> list[Batch]:
    """Return the first batches of the first epoch, in the type of the benchmark.

    Args:
        config: Checked configuration.
        networks: What it builds.

    Raises:
        ConfigError: If the training split has fewer examples than a batch.
    """
    size = config.train.batch_size
    num = networks.dataset.num_examples("train")
    if size > num:
        raise ConfigError(
            f"`train.batch_size` must be at most the {num} training examples, got {size}; lower "
            "it, or raise data.num_train where the data set has that."
        )
    order = epoch_order(num, seed=config.seed, epoch=0)[: min(NUM_BATCHES, num // size) * size]
    batches = networks.dataset.batches("train", in_parts(order, size))
    return [converted(batch, config.bench.dtype) for batch in batches]


def converted(batch: Batch, dtype: str) -> Batch:
    """Return a batch with its floating-point tensors in the type of the benchmark.

    Args:
        batch: A batch of the data set.
        dtype: ``bench.dtype``.
    """

    def convert(tensor: Tensor) -> Tensor:
        return tensor.to(DTYPES[dtype]) if tensor.is_floating_point() else tensor

    targets = {name: convert(target) for name, target in batch.targets.items()}
    return Batch(convert(batch.inputs), targets)
