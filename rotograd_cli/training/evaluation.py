"""Losses and metrics over a split, on any number of ranks."""

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rule import Evaluation, Measured
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.tasks.dense_metrics import Accumulator
from rotograd_cli.tasks.metrics import Better, MetricSpec, geometric_mean
from rotograd_cli.tasks.task import Task, task_statistics
from rotograd_cli.training import interrupts
from rotograd_cli.training.batch_checks import refuse_faults
from rotograd_cli.training.batches import complete_batches, evaluation_parts
from rotograd_cli.training.evaluation_view import EvaluationView
from rotograd_cli.training.objective import predict, task_losses
from rotograd_cli.training.options import TrainOptions

logger = logging.getLogger(__name__)
TOGETHER = 2
"""Consecutive batches that one rank evaluates: a metric may pair an odd image with the next."""


@dataclass
class Evaluator:
    """Measures the splits of a data set at the current weights.

    Args:
        model: The network with its method.
        dataset: The data.
        options: Batch size and limits.
    """

    model: MultiTaskMethod
    dataset: MultiTaskDataset
    options: TrainOptions
    _faultless: set[Split] = field(default_factory=set, init=False)
    _said: set[str] = field(default_factory=set, init=False)

    def metrics(self, split: Split, view: EvaluationView | None = None) -> dict[str, float]:
        """Return what :func:`evaluate` does for a split.

        Args:
            split: Which split.
            view: Sees every batch.

        Raises:
            ConfigError: If values of the split make a loss NaN or infinite.
        """
        parts = evaluation_parts(self.dataset, split, self.options)
        local_parts = parts_of_rank(parts, self.model.ranks.rank, self.model.ranks.size)
        batches = complete_batches(self.dataset, split, local_parts)
        tasks = self.dataset.tasks
        metrics = evaluate(self.model, tasks, self._stoppable(batches), split, view)
        losses = {t.name: metrics.get(f"{split}/{t.name}/loss", 0.0) for t in tasks}
        suspects = [name for name, loss in losses.items() if not math.isfinite(loss)]
        if suspects and split not in self._faultless:
            batches = self.dataset.batches(split, parts)
            refuse_faults(batches, self.dataset, split, suspects)
            self._faultless.add(split)
        notes = [note for note in unlabelled_notes(tasks, metrics) if note not in self._said]
        for note in notes:
            logger.warning("%s.", note)
        self._said.update(notes)
        return metrics

    def _stoppable(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.model.ranks.size == 1:  # many ranks stop between two steps alone
                interrupts.check()
            yield batch


def unlabelled_notes(tasks: Sequence[Task], metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Return a sentence for each task without any label in an evaluated split.

    Args:
        tasks: The K tasks.
        metrics: What :func:`evaluate` returned, of one or several splits.
    """
    splits = dict.fromkeys(key.partition("/")[0] for key in metrics)
    return tuple(
        f"Split {split} has no label of task {task.name!r}, which has no metrics there and takes "
        "no part in its means over tasks"
        for split in splits
        for task in tasks
        if f"{split}/{task.name}/loss" not in metrics
    )


def parts_of_rank(parts: Sequence[Tensor], rank: int, num_ranks: int) -> list[Tensor]:
    """Return the batches that a rank evaluates: ``TOGETHER`` consecutive ones at a time."""
    return [part for i, part in enumerate(parts) if i // TOGETHER % num_ranks == rank]


def by_task(tasks: Sequence[Task], metrics: Mapping[str, float], split: Split) -> Evaluation:
    """Return the metrics of a split as methods take them.

    Args:
        tasks: The K tasks.
        metrics: By ``split/task/metric``; NaN stands for one that is not there.
        split: The split.
    """

    def measured(task: Task, name: str, better: Better) -> Measured:
        return Measured(metrics.get(f"{split}/{task.name}/{name}", math.nan), better)

    return [
        {
            **{spec.name: measured(task, spec.name, spec.better) for spec in task.metrics},
            "loss": measured(task, "loss", "lower"),
        }
        for task in tasks
    ]


@torch.no_grad()
def evaluate(
    model: MultiTaskMethod,
    tasks: Sequence[Task],
    batches: Iterable[Batch],
    split: str,
    view: EvaluationView | None = None,
) -> dict[str, float]:
    """Return losses and metrics over a split, each accumulated over all its examples.

    The model is put into evaluation mode and back. The device is waited for at the end alone.

    A loss over the split is the mean over all the elements with a label
    (:meth:`Task.num_labelled`), whatever the batch size. Where all tasks lead with the same metric,
    its statistics over the tasks are added (:func:`rotograd_cli.tasks.metrics.statistics`).

    A NaN in a prediction is no class, and neither above nor below a threshold: if a task has one,
    all its metrics are NaN, and a warning says in how many examples.

    Args:
        model: The network with its method.
        tasks: The K tasks.
        batches: The split; with many ranks (``model.ranks``), this rank's batches of it
            (:func:`parts_of_rank`).
        split: Its name, the first part of every key.
        view: Sees every batch with its predictions; given on all ranks or on none.

    Returns:
        ``split/task/metric``, ``split/task/loss``, ``split/min_metric`` and the other statistics,
        ``split/loss`` (the sum over tasks) and ``split/geomean_loss`` (their geometric mean). A
        task without any label in the split has no entry, and no part in what is over tasks.
    """
    device = next(model.parameters()).device
    if view is not None:
        view.begin(device)
    with model.evaluating():
        predicted = _predicted(model, batches, view)
        result = measure(tasks, predicted, split, device=device, ranks=model.ranks)
    if view is not None:
        view.finish(model.ranks)
    return result


@torch.no_grad()
def measure(
    tasks: Sequence[Task],
    predicted: Iterable[tuple[Sequence[Tensor], Batch]],
    split: str,
    *,
    device: torch.device,
    ranks: Ranks = ONE,
) -> dict[str, float]:
    """Return losses and metrics of predictions that are there, as :func:`evaluate` does.

    Args:
        tasks: The K tasks.
        predicted: Predictions of all tasks for a batch, and the batch, whose inputs do not matter.
        split: First part of every key.
        device: Where predictions and targets are.
        ranks: The processes that have the batches.
    """
    accumulators = [_Accumulator(task, device) for task in tasks]
    for predictions, batch in predicted:
        for k, loss in enumerate(task_losses(tasks, predictions, batch)):
            if loss is not None:
                accumulators[k].add(loss, predictions[k], batch.targets[tasks[k].name])
    sums = ranks.sum(torch.stack([a.sums for a in accumulators]))
    labelled = [k for k, num in enumerate(sums[:, 1].tolist()) if num > 0]  # on every rank alike
    rows = [torch.cat((sums[k], accumulators[k].values(ranks))) for k in labelled]
    if not rows:
        return {}
    on_host = torch.split(torch.cat(rows).cpu(), [len(row) for row in rows])  # one transfer
    return _named([tasks[k] for k in labelled], [row.tolist() for row in on_host], split)


def _predicted(
    model: MultiTaskMethod, batches: Iterable[Batch], view: EvaluationView | None
) -> Iterator[tuple[Sequence[Tensor], Batch]]:
    for batch in batches:
        predictions = predict(model, batch)
        if view is not None:
            view.add(batch, predictions)
        yield predictions, batch


def _named(tasks: Sequence[Task], rows: Sequence[list[float]], split: str) -> dict[str, float]:
    """Return keys and values from the sums of each task with a label, followed by its metrics."""
    losses: dict[str, float] = {}
    metrics: dict[str, list[float]] = {}
    for task, (total, num, num_nan, *values) in zip(tasks, rows, strict=True):
        losses[task.name] = total / num
        metrics[task.name] = [math.nan] * len(values) if num_nan else values
        if num_nan:
            logger.warning(
                "The prediction of task %r is NaN in %d examples of split %s; its metrics are NaN.",
                task.name,
                num_nan,
                split,
            )
    result = {f"{split}/{name}/loss": loss for name, loss in losses.items()}
    for task in tasks:
        for spec, value in zip(task.metrics, metrics[task.name], strict=True):
            result[f"{split}/{task.name}/{spec.name}"] = value
    for statistic in task_statistics(tasks):
        leading = torch.tensor([values[0] for values in metrics.values()], dtype=torch.float64)
        result[f"{split}/{statistic.name}"] = float(statistic.of(leading))
    result[f"{split}/loss"] = sum(losses.values())
    result[f"{split}/geomean_loss"] = geometric_mean(losses)
    return result


class _Accumulator:
    """Loss, metrics and NaN of one task over a split, on the device until they are read."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.task = task
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        """Loss times elements, elements, examples with a NaN in the prediction."""
        shared = {_sharing_key(spec): spec for spec in task.metrics}
        self.metrics = {key: spec.create().to(device) for key, spec in shared.items()}

    def add(self, loss: Tensor, prediction: Tensor, target: Tensor) -> None:
        """Add a batch that has a target."""
        num = self.task.num_labelled(target)
        total = torch.where(num > 0, loss.double() * num, 0)  # some losses of nothing are NaN
        with_nan = prediction.isnan().unsqueeze(1).flatten(1).any(1).sum()
        self.sums += torch.stack((total, num, with_nan))
        for (_, prepare), metric in self.metrics.items():
            metric.update(prepare(prediction), target)

    def values(self, ranks: Ranks) -> Tensor:
        """Return the metrics over all ranks, in order, float64, shape ``[num_metrics]``."""
        for metric in self.metrics.values():
            if isinstance(metric, Accumulator):  # those of torchmetrics add up themselves
                for total in metric.buffers():
                    total.copy_(ranks.sum(total))
        with warnings.catch_warnings():  # a rank without a target has nothing to add, and may
            warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
            computed = {key: metric.compute() for key, metric in self.metrics.items()}
        values = [spec.value(computed[_sharing_key(spec)]).double() for spec in self.task.metrics]
        return torch.stack(values) if values else self.sums.new_empty(0)


def _sharing_key(spec: MetricSpec) -> tuple[object, Callable[[Tensor], Tensor]]:
    """The same for metrics that share an accumulator."""
    return spec.create, spec.prepare
