"""The training loop on a toy data set."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rotograd_cli.data.base import Batch, Split
from rotograd_cli.errors import ConfigError, NonFiniteError, SelectionError
from rotograd_cli.linalg import devices
from rotograd_cli.methods.rule import Evaluation
from rotograd_cli.tasks.losses import mean_squared_error
from rotograd_cli.training.averaging import WeightAverage
from rotograd_cli.training.checkpoint import load_checkpoint
from rotograd_cli.training.checkpoint_content import content_of, restore
from rotograd_cli.training.evaluation import evaluate
from rotograd_cli.training.loop import Trainer
from rotograd_cli.training.options import CheckpointOptions, TrainOptions
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.schedules import OptimizerGroup
from rotograd_cli.training.seeding import epoch_draws, epoch_order
from rotograd_cli.training.selection import Selection
from rotograd_cli.training.train_state import TrainState
from tests.toy import METHODS, TASKS, ToyDataset, toy_model

OPTIONS = TrainOptions(
    epochs=3,
    batch_size=6,  # 3 batches of the 20 examples, 2 examples left out
    accumulate_steps=1,
    grad_clip_norm=None,
    eval_batch_size=4,
    log_every_steps=2,
    shuffle=True,
    augment=True,
    eval_every_epochs=1,
    limit_batches=None,
    limit_eval_batches=None,
    evaluate_train=False,
    average_last_epochs=None,
    patience=None,
    ema_decay=None,
    select="val/geomean_loss",
    select_mode="min",
    on_nonfinite="stop",
    max_skipped_steps=0,
)


class Memory:
    """Keeps what the loop records."""

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []
        self.num_progress = 0

    def log(self, record: dict[str, float]) -> None:
        self.records.append(record)

    def position(self) -> dict[str, int]:
        return {}

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        self.num_progress += 1


def trainer(
    folder: Path,
    method: str = "vanilla",
    *,
    dataset: ToyDataset | None = None,
    seed: int = 0,
    script: Sequence[float] = (),
    **changes: Any,
) -> Any:
    torch.manual_seed(0)
    model = toy_model(method)
    parameters = {"model": list(model.model_parameters()), "method": list(model.mtl_parameters())}
    groups = []
    for name, params in parameters.items():
        if params:
            optimizer = torch.optim.SGD(params, lr=0.1)
            step = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            epoch = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
            by_step = name == "method"
            schedule = step if by_step else epoch
            groups.append(OptimizerGroup(name, optimizer, schedule, "step" if by_step else "epoch"))
    folder.mkdir(exist_ok=True)
    loop: Any = Trainer(
        RunState(model, groups),
        dataset or ToyDataset(),
        replace(OPTIONS, **changes),
        Memory(),
        checkpoint_dir=folder,
        checkpoint_options=CheckpointOptions(every_epochs=1, every_minutes=math.inf, keep_epochs=0),
        seed=seed,
        config={"seed": seed, "train": {"epochs": changes.get("epochs", OPTIONS.epochs)}},
    )
    if script:
        loop.evaluator = Scripted(loop, script)
    return loop


def without_time(record: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in record.items() if key != "seconds"}


# ---- counting


def test_state_counts_epochs_and_steps_of_whole_batches(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    loop.fit()
    assert (loop.run.state.epoch, loop.run.state.step) == (3, 9)
    assert loop.recorder.num_progress == 9
    saved = load_checkpoint(tmp_path / "last.pt")
    expected = asdict(loop.run.state)
    assert 0 < saved["state"].pop("wall_s") <= loop.run.wall_s
    assert saved["state"] == {key: expected[key] for key in expected if key != "wall_s"}
    assert saved["config"] == {"seed": 0, "train": {"epochs": 3}}


def test_limit_shortens_the_epoch(tmp_path: Path) -> None:
    loop = trainer(tmp_path, limit_batches=2, limit_eval_batches=1)
    loop.train_epoch()
    assert loop.run.state.step == 2
    first = loop.dataset.batch("val", torch.arange(4))
    assert loop.evaluator.metrics("val") == evaluate(loop.run.model, TASKS, [first], "val")


def test_schedules_advance_per_step_and_per_epoch(tmp_path: Path) -> None:
    loop = trainer(tmp_path, "rotograd")
    network, method = (group.optimizer.param_groups[0] for group in loop.run.groups)
    for epoch in range(1, 4):
        loop.train_epoch()
        assert network["lr"] == pytest.approx(0.1 * 0.5 ** (epoch // 2), rel=1e-12)
        assert method["lr"] == pytest.approx(0.1 * 0.9 ** (3 * epoch), rel=1e-12)


def test_micro_batches_split_the_batch_and_take_one_step(tmp_path: Path) -> None:
    whole, split = trainer(tmp_path), trainer(tmp_path, accumulate_steps=3)
    whole.train_epoch()
    split.train_epoch()
    assert split.dataset.order == whole.dataset.order
    assert split.run.state.step == whole.run.state.step == 3
    for p, q in zip(split.run.model.parameters(), whole.run.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)  # float32 sums in another order


class Noisy(ToyDataset):
    """Remembers what the augmentation was given."""

    num_draws = 2

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[torch.Tensor] = []

    def augment(self, batch: Batch, draws: torch.Tensor) -> Batch:
        assert len(draws) == len(batch.inputs)
        self.draws.append(draws)
        return Batch(batch.inputs + draws[:, :1], batch.targets)


def test_training_examples_alone_are_augmented_by_numbers_of_seed_and_epoch(tmp_path: Path) -> None:
    whole, split = (
        trainer(tmp_path, dataset=Noisy(), seed=5, accumulate_steps=n, evaluate_train=True)
        for n in (1, 3)
    )
    plain = trainer(tmp_path, dataset=Noisy(), seed=5, augment=False)
    for loop in (whole, split, plain):
        loop.fit()
    expected = torch.cat([epoch_draws(18, 2, seed=5, epoch=epoch) for epoch in range(3)])
    for loop in (whole, split):
        assert torch.equal(torch.cat(loop.dataset.draws), expected)
    one, three, other = (next(loop.run.model.parameters()) for loop in (whole, split, plain))
    torch.testing.assert_close(one, three)  # float32 sums in another order
    assert not torch.equal(one, other)
    assert plain.dataset.draws == []


def test_evaluations_may_be_rarer_but_the_last_epoch_has_one(tmp_path: Path) -> None:
    often, rare = trainer(tmp_path, epochs=5), trainer(tmp_path, epochs=5, eval_every_epochs=3)
    often.fit()
    rare.fit()

    def evaluations(loop: Any) -> dict[float, float]:
        records = [r for r in loop.recorder.records if "val/loss" in r]
        return {record["epoch"]: record["val/loss"] for record in records}

    assert list(evaluations(rare)) == [3, 5]
    assert evaluations(rare).items() <= evaluations(often).items()
    assert load_checkpoint(tmp_path / "last.pt")["state"]["epoch"] == 5


def test_a_method_is_told_of_the_end_of_every_epoch_before_it_is_saved(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    loop.run.model.register_buffer("steps_at_ends", torch.zeros(0, dtype=torch.int64))

    def end_epoch() -> None:
        now = torch.tensor([loop.run.state.step])
        loop.run.model.steps_at_ends = torch.cat((loop.run.model.steps_at_ends, now))

    loop.run.model.end_epoch = end_epoch
    kept = []
    for _ in range(2):
        loop.train_epoch()
        loop.checkpoints.save("last.pt")
        loop.checkpoints.wait()
        kept.append(load_checkpoint(tmp_path / "last.pt")["model"]["steps_at_ends"].tolist())
    assert kept == [[3], [3, 6]]


def test_a_method_is_told_of_every_evaluation_before_it_is_saved(tmp_path: Path) -> None:
    loop = trainer(tmp_path, epochs=3, eval_every_epochs=2)
    model = loop.run.model
    model.register_buffer("seen", torch.zeros(0))
    better: list[dict[str, str]] = []

    def observe_evaluation(evaluation: Evaluation) -> None:
        losses = torch.tensor([metrics["loss"].value for metrics in evaluation])
        model.seen = torch.cat((model.seen, losses))
        better[:] = [{name: m.better for name, m in metrics.items()} for metrics in evaluation]

    model.observe_evaluation = observe_evaluation
    loop.fit()
    tasks = loop.dataset.tasks
    evaluations = [r for r in loop.recorder.records if "val/loss" in r]
    expected = [record[f"val/{task.name}/loss"] for record in evaluations for task in tasks]
    saved = load_checkpoint(tmp_path / "last.pt")["model"]["seen"]
    assert len(evaluations) == 2
    torch.testing.assert_close(saved, torch.tensor(expected))
    assert better == [
        {**{spec.name: spec.better for spec in task.metrics}, "loss": "lower"} for task in tasks
    ]


# ---- order of examples


def test_every_epoch_has_its_own_order_of_the_seed(tmp_path: Path) -> None:
    loop = trainer(tmp_path, seed=4)
    loop.fit()
    expected = [epoch_order(20, seed=4, epoch=epoch)[:18] for epoch in range(3)]
    assert loop.dataset.order == torch.cat(expected).tolist()


def test_order_without_shuffling_is_that_of_the_data_set(tmp_path: Path) -> None:
    loop = trainer(tmp_path, shuffle=False)
    loop.train_epoch()
    assert loop.dataset.order == list(range(18))


def test_order_is_independent_of_the_method(tmp_path: Path) -> None:
    orders = []
    for method in METHODS:
        loop = trainer(tmp_path, method)
        loop.fit()
        orders.append(loop.dataset.order)
    assert all(order == orders[0] for order in orders)


@pytest.mark.parametrize("method", METHODS)
def test_two_runs_of_a_seed_are_bit_identical(method: str, tmp_path: Path) -> None:
    results = []
    for name in ("first", "second"):
        loop = trainer(tmp_path / name, method)
        results.append((loop.fit(), [without_time(r) for r in loop.recorder.records]))
    assert results[0] == results[1]
    assert trainer(tmp_path / "other", method, seed=1).fit() != results[0][0]


# ---- selection


class Scripted:
    """An evaluator with validation values by script; keeps the weights of every epoch."""

    def __init__(self, loop: Trainer, script: Sequence[float]) -> None:
        self.loop = loop
        self.others = loop.evaluator
        self.script = script
        self.kept: list[dict[str, Any]] = []

    def metrics(self, split: Split, view: Any = None) -> dict[str, float]:
        if split == "test":
            return self.others.metrics(split)
        model = self.loop.run.model
        self.kept.append({key: value.clone() for key, value in model.state_dict().items()})
        return {self.loop.selection.key: self.script[self.loop.run.state.epoch - 1]}


@pytest.mark.parametrize(
    ("script", "mode", "best"),
    [
        ((3.0, 1.0, 2.0), "min", 2),
        ((3.0, 1.0, 2.0), "max", 1),
        ((2.0, 2.0, 2.0), "min", 1),  # the earliest of equals
        ((math.nan, 5.0, math.nan), "min", 2),
        ((math.inf, math.inf, 7.0), "min", 3),
        ((math.inf, 3.0, -math.inf), "max", 2),
    ],
)
def test_test_metrics_are_those_of_the_selected_epoch(
    script: tuple[float, ...], mode: str, best: int, tmp_path: Path
) -> None:
    key = {"min": "val/value/mse", "max": "val/flag/f1"}[mode]
    loop = trainer(tmp_path, "rotograd", script=script, select=key, select_mode=mode)
    metrics = loop.fit()
    assert loop.run.state.best_epoch == best
    assert metrics.pop(key) == script[best - 1]
    expected = toy_model("rotograd")
    expected.load_state_dict(loop.evaluator.kept[best - 1])
    whole = loop.dataset.batches("test", torch.arange(9).split(4))
    assert metrics == evaluate(expected, TASKS, whole, "test")
    last = without_time(loop.recorder.records[-1])
    assert last == {"step": 9, "epoch": best, **metrics}


@pytest.mark.parametrize("stopped_after", [0, 1, 2, 3])
def test_results_are_means_over_the_last_epochs_over_resumes_too(
    stopped_after: int, tmp_path: Path
) -> None:
    def measured(epochs: int) -> dict[str, float]:
        """Metrics after so many epochs, of a run that selects by validation."""
        loop = trainer(tmp_path / f"after{epochs}", "rotograd", epochs=epochs)
        loop.fit()
        last = load_checkpoint(tmp_path / f"after{epochs}" / "last.pt")
        restore(loop.run, last, tmp_path, epochs)
        return {**loop.evaluator.metrics("val"), **loop.evaluator.metrics("test")}

    averaged = {"average_last_epochs": 2, "eval_every_epochs": 3}
    loop = trainer(tmp_path / "run", "rotograd", **averaged)
    for _ in range(stopped_after):
        loop.train_epoch()
        loop._end_epoch()
        loop.checkpoints.wait()
    if stopped_after:
        loop = trainer(tmp_path / "run", "rotograd", **averaged)
        loop.checkpoints.resume()
    metrics = loop.fit()
    second, third = measured(2), measured(3)
    assert metrics == {key: (second[key] + third[key]) / 2 for key in third}
    assert load_checkpoint(tmp_path / "run" / "best.pt")["state"]["best_epoch"] == 3
    assert loop.run.state.describe_selected(loop.selection) == (
        "Results are the mean of epochs 2 to 3; none is selected."
    )


def test_means_of_huge_and_infinite_metrics_are_what_floats_make_of_them() -> None:
    inf = math.inf
    values = {"huge": (1.6e308, 1.6e308), "up": (inf, 1.0), "both": (inf, -inf)}
    selection = Selection("small", "min", ())
    state = TrainState()
    for index in range(2):
        metrics = {key: pair[index] for key, pair in values.items()} | {"small": 0.25 + index}
        state.update_mean(metrics, selection)
    assert math.isnan(state.best_metrics.pop("both"))
    assert state.best_metrics == {"huge": 1.6e308, "up": inf, "small": 0.75}


def test_more_epochs_cannot_be_averaged_than_are_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"at most train.epochs, 3, got 4; add train.average_la"):
        trainer(tmp_path, average_last_epochs=4)


def test_nothing_is_tested_where_no_epoch_has_a_finite_value(tmp_path: Path) -> None:
    script = (math.nan, math.inf, -math.inf)
    loop = trainer(tmp_path, script=script, select="val/value/mse")
    with pytest.raises(SelectionError, match=r"val/value/mse was infinite or NaN in every eval"):
        loop.fit()
    assert not any("test/loss" in record for record in loop.recorder.records)
    assert not (tmp_path / "best.pt").exists()
    assert loop.run.state.best_epoch == loop.run.state.num_candidates == 0


def test_what_an_earlier_version_selected_by_nan_is_not_tested(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    loop.run.state.best_epoch = 1  # with a value of NaN
    loop.run.state.epoch = 3
    with pytest.raises(SelectionError, match="No epoch can be selected"):
        loop.fit()
    assert not any("test/loss" in record for record in loop.recorder.records)


class DropsTheLast(ToyDataset):
    """As a loader with ``drop_last``."""

    def batches(self, split: Split, parts: Any) -> Any:
        yield from list(super().batches(split, parts))[: len(parts) - (split != "train")]


def test_an_evaluation_of_fewer_batches_than_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"split val: .* each of the 3 parts, got 2; yield"):
        trainer(tmp_path, dataset=DropsTheLast()).fit()


def test_the_selected_epoch_and_what_it_was_compared_with_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = (2.0, math.nan, 1.5)
    with caplog.at_level(logging.INFO, "rotograd_cli"):
        trainer(tmp_path, script=script, select="val/value/mse").fit()
    said = (
        "Selected epoch 3: val/value/mse 1.5000, the best of the 2 finite values of 3 evaluations."
    )
    assert said in caplog.messages


def below_zero(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss of either sign, as that of a density."""
    return mean_squared_error(prediction, target) - 4.3


def with_signed_loss() -> ToyDataset:
    dataset = ToyDataset()
    signed = [replace(t, loss=below_zero) if t.name == "value" else t for t in dataset.tasks]
    dataset.tasks = tuple(signed)
    return dataset


def test_losses_of_either_sign_are_compared_with_those_of_the_untrained_network(
    tmp_path: Path,
) -> None:
    loop = trainer(tmp_path, dataset=with_signed_loss(), select="val/auto")
    untrained = loop.evaluator.metrics("val")
    metrics = loop.fit()
    evaluations = [record for record in loop.recorder.records if "val/loss" in record]
    values = []
    for record in evaluations:
        changes = [
            (record[key] - untrained[key]) / abs(untrained[key])
            for key in (f"val/{task.name}/loss" for task in TASKS)
        ]
        values.append(sum(changes) / 3)
        assert record["val/relative_loss"] == pytest.approx(values[-1], rel=1e-12)
    assert min(values) < 0
    assert any(record["val/value/loss"] < 0 for record in evaluations)
    assert loop.run.state.best_epoch == 1 + values.index(min(values))
    assert metrics["val/relative_loss"] == pytest.approx(min(values), rel=1e-12)


def test_a_solved_task_is_named_once_and_the_others_select(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = ToyDataset()
    solved = replace(TASKS[0], loss=lambda p, t: 1e-9 * mean_squared_error(p, p + 1))
    dataset.tasks = (solved, *TASKS[1:])
    loop = trainer(tmp_path, dataset=dataset, select="val/geomean_loss")
    loop.fit()
    evaluations = [r for r in loop.recorder.records if "val/loss" in r]
    others = [
        math.prod(r[f"val/{task.name}/loss"] for task in TASKS[1:]) ** (1 / 3) for r in evaluations
    ]
    assert [r["val/geomean_loss"] for r in evaluations] == pytest.approx(
        [2.0 ** (-23 / 3) * each for each in others], rel=1e-9
    )
    (message,) = [m for m in caplog.messages if "counts as" in m]
    assert message == (
        f"The loss of task {solved.name!r} is 1e-09 on val, and counts as 1.2e-07 in "
        "val/geomean_loss, which compares epochs; to compare them otherwise, train with "
        "train.select=val/loss, or with a metric of one task, train.select=val/TASK/METRIC."
    )


def test_a_geometric_mean_over_a_negative_loss_ends_the_run(tmp_path: Path) -> None:
    loop = trainer(tmp_path, dataset=with_signed_loss(), epochs=30, select="val/geomean_loss")
    with pytest.raises(SelectionError) as caught:
        loop.fit()
    message = str(caught.value)
    assert "that of task 'value' is -" in message
    assert message.endswith("train.select=val/relative_loss, or with a metric of one task.")
    assert not any("test/loss" in record for record in loop.recorder.records)


def test_auto_is_the_geometric_mean_where_no_loss_can_be_negative(tmp_path: Path) -> None:
    assert trainer(tmp_path, select="val/auto").selection.key == "val/geomean_loss"
    on_train = trainer(tmp_path, select="train/auto", evaluate_train=True)
    assert on_train.selection.key == "train/geomean_loss"
    one = replace(TASKS[1], loss=lambda prediction, target: mean_squared_error(prediction, target))
    dataset = ToyDataset()
    dataset.tasks = (TASKS[0], one)
    unknown = trainer(tmp_path, dataset=dataset, select="val/auto")
    assert unknown.selection.key == "val/relative_loss"


@pytest.mark.parametrize(
    ("select", "mode", "best"),
    [("val/flag/f1", "min", "max"), ("val/value/mse", "max", "min"), ("val/loss", "max", "min")],
)
def test_a_mode_that_takes_the_worst_epoch_is_refused(
    select: str, mode: str, best: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"must be {best} for {select}.*train.select_mode={best}"):
        trainer(tmp_path, select=select, select_mode=mode)


def test_selected_metrics_are_those_of_validation_in_its_epoch(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    metrics = loop.fit()
    evaluations = [record for record in loop.recorder.records if "val/loss" in record]
    assert [record["epoch"] for record in evaluations] == [1, 2, 3]
    best = min(evaluations, key=lambda record: record["val/geomean_loss"])
    assert {key: metrics[key] for key in best if key.startswith("val/")} == {
        key: value for key, value in best.items() if key.startswith("val/")
    }


# ---- records


def test_training_losses_are_means_over_the_steps_since_the_last_record(tmp_path: Path) -> None:
    every, window = (
        trainer(tmp_path, log_every_steps=1),
        trainer(tmp_path, log_every_steps=2),
    )
    every.train_epoch()
    window.train_epoch()
    assert [record["step"] for record in window.recorder.records] == [2, 3]  # and the epoch's last
    single = [record["train/value/loss"] for record in every.recorder.records]
    first, last = (record["train/value/loss"] for record in window.recorder.records)
    assert first == pytest.approx((single[0] + single[1]) / 2, rel=1e-6)
    assert last == pytest.approx(single[2], rel=1e-6)
    record = window.recorder.records[0]
    assert record["train/loss"] == pytest.approx(
        sum(record[f"train/{task.name}/loss"] for task in TASKS)
    )
    assert record["train/lr"] == 0.1


@pytest.mark.parametrize("method", METHODS)
def test_every_record_is_made_of_plain_numbers(method: str, tmp_path: Path) -> None:
    loop = trainer(tmp_path, method)
    loop.fit()
    for record in loop.recorder.records:
        assert {"step", "epoch", "seconds"} <= set(record)
        assert json.loads(json.dumps(record)) == record
        learns = next(loop.run.model.mtl_parameters(), None) is not None
        rates = {key for key in record if key.endswith("lr")}
        if "train/loss" in record and "val/loss" not in record:
            assert rates == {"train/lr", *(["train/method_lr"] if learns else [])}


def test_records_count_the_seconds_of_training_over_resumes(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    first.run.state.train_s = 100.0  # as if a step had taken that long
    first.train_epoch()
    first.checkpoints.save("last.pt")
    first.checkpoints.wait()
    second = trainer(tmp_path)
    second.checkpoints.resume()
    second.fit()
    times = [r["seconds"] for loop in (first, second) for r in loop.recorder.records]
    assert times == sorted(times)
    assert times[0] >= 100
    assert times[-1] == round(second.run.state.train_s, 3) <= 100 + first.run.wall_s


def test_loss_that_is_not_finite_stops_with_its_task_and_keeps_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    loop = trainer(tmp_path)
    loop.train_epoch()
    loop.checkpoints.save("last.pt")
    loop.checkpoints.wait()
    loop.dataset.targets["train"]["value"].fill_(math.inf)
    with pytest.raises(NonFiniteError, match="loss of task 'value' became inf in step 4"):
        loop.train_epoch()
    assert load_checkpoint(tmp_path / "last.pt")["state"]["step"] == 3


# ---- the host does not wait


@pytest.mark.parametrize("method", METHODS)
def test_epoch_reads_values_only_when_it_records(
    method: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count_reads: Callable[[Callable[[], Any]], int],
) -> None:
    monkeypatch.setattr(devices, "reads_are_free", lambda device: False)  # an accelerator's way
    reads = []
    for num_train in (12, 60):
        loop = trainer(
            tmp_path, method, dataset=ToyDataset((num_train, 1, 1)), log_every_steps=1_000
        )
        monkeypatch.setattr(loop.dataset, "order", _Ignored())
        reads.append(count_reads(loop.train_epoch))
    assert reads[0] == reads[1]


class _Ignored(list[int]):
    def __iadd__(self, other: Any) -> "_Ignored":
        return self


# ---- wrong options


def test_batch_larger_than_the_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most the 20 training examples, got 21"):
        trainer(tmp_path, batch_size=21)
    trainer(tmp_path, batch_size=20)


@pytest.mark.parametrize("select", ["val/geomean", "test/loss"])
def test_selection_by_an_unknown_metric_lists_those_there_are(select: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer(tmp_path, select=select)
    message = str(caught.value)
    assert f"got {select!r}" in message
    assert "val/kind/accuracy, val/value/loss" in message
    assert "val/loss, val/geomean_loss, val/relative_loss, or add train.evaluate" in message


def test_selection_on_training_examples_needs_their_evaluation(tmp_path: Path) -> None:
    for select in ("train/auto", "train/loss"):
        with pytest.raises(
            ConfigError, match=f"got '{select}'; choose from .*, or add train.evaluate_train=true"
        ):
            trainer(tmp_path, select=select)


def test_training_metrics_can_be_selected_by_where_they_are_evaluated(tmp_path: Path) -> None:
    loop = trainer(tmp_path, select="train/flag/f1", select_mode="max", evaluate_train=True)
    metrics = loop.fit()
    num = {key.split("/")[0] for key in metrics}
    assert num == {"train", "val", "test"}


# ---- steps that are not finite


class Poisoned(ToyDataset):
    """Gives infinity as a target in some batches of the epoch."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self.steps, self.num_batches = steps, 0

    def batch(self, split: Split, indices: torch.Tensor) -> Batch:
        batch = super().batch(split, indices)
        if split == "train":
            self.num_batches += 1
            if self.num_batches in self.steps:
                batch.targets["value"].fill_(math.inf)  # type: ignore[attr-defined]
        return batch


@pytest.mark.parametrize("method", METHODS)
def test_a_skipped_step_changes_no_parameter_and_is_counted(method: str, tmp_path: Path) -> None:
    loop = trainer(tmp_path, method, dataset=Poisoned(2), on_nonfinite="skip", max_skipped_steps=1)
    expected = trainer(tmp_path, method)
    loop.train_epoch()
    order = epoch_order(20, seed=0, epoch=0)
    expected.run.model.train()
    for step in (0, 2):  # the same batches without the second
        expected.stepper.take([expected.dataset.batch("train", order[6 * step : 6 * step + 6])])
    assert (loop.run.state.step, loop.run.state.skipped_steps) == (3, 1)
    if method == "vanilla":  # elsewhere the method's schedule is a step further
        for p, q in zip(loop.run.model.parameters(), expected.run.model.parameters(), strict=True):
            assert torch.equal(p, q)
    assert all(p.isfinite().all() for p in loop.run.model.parameters())


def test_a_skipped_step_leaves_running_statistics_as_they_were(tmp_path: Path) -> None:
    dataset = ToyDataset()
    loop = trainer(tmp_path, dataset=dataset, on_nonfinite="skip", max_skipped_steps=1)
    model = loop.run.model.train()
    model.backbone = torch.nn.Sequential(model.backbone, torch.nn.BatchNorm1d(5))
    model.heads[0].insert(0, torch.nn.BatchNorm1d(5))
    batch = dataset.batch("train", torch.arange(6))
    loop.stepper.take([batch])
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    poisoned = batch.inputs.clone()
    poisoned[0, 0] = math.nan
    loop.stepper.take([batch, Batch(poisoned, batch.targets)])
    assert loop.run.state.skipped_steps == 1
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_a_skipped_step_may_have_made_a_buffer(tmp_path: Path) -> None:
    class CountsLazily(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.register_buffer("seen", torch.ones(()), persistent=False)
            return x

    dataset = ToyDataset()
    loop = trainer(tmp_path, dataset=dataset, on_nonfinite="skip", max_skipped_steps=1)
    loop.run.model.train().heads[0].insert(0, CountsLazily())
    batch = dataset.batch("train", torch.arange(6))
    loop.stepper.take([Batch(batch.inputs * math.nan, batch.targets)])
    assert loop.run.state.skipped_steps == 1


def test_skipping_ends_at_its_limit(tmp_path: Path) -> None:
    loop = trainer(tmp_path, dataset=Poisoned(1, 3), on_nonfinite="skip", max_skipped_steps=1)
    with pytest.raises(NonFiniteError, match="became inf in step 3 after 1 skipped steps"):
        loop.train_epoch()


def test_a_step_that_stops_the_run_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    loop = trainer(tmp_path, dataset=Poisoned(1))
    before = [p.clone() for p in loop.run.model.parameters()]
    with pytest.raises(NonFiniteError, match="loss of task 'value' became inf in step 1"):
        loop.train_epoch()
    assert all(torch.equal(p, q) for p, q in zip(loop.run.model.parameters(), before, strict=True))
    assert all(p.grad is None for p in loop.run.model.parameters())


def test_a_gradient_that_is_not_finite_is_named(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    loop.run.model.heads[1][0].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(
        NonFiniteError, match=r"gradient of heads.1.0.weight became infinite or NaN"
    ):
        loop.train_epoch()


# ---- data that turn out wrong late


class Late(ToyDataset):
    """One example of a split is wrong."""

    def __init__(self, split: Split, what: str) -> None:
        super().__init__()
        row = 7 if split == "train" else 8
        if what == "inputs":
            self.inputs[split][row, 2] = math.nan
        else:
            self.targets[split]["kind"][row] = 3


INPUTS = "inputs must be finite, got NaN or infinity in 1 of "
KIND = "the target must be a class in 0..2, or -1 for no label, got 3 in 1 of "


@pytest.mark.parametrize(("what", "text"), [("inputs", INPUTS), ("kind", KIND)])
def test_a_step_that_is_not_finite_for_its_data_names_them(
    what: str, text: str, tmp_path: Path
) -> None:
    loop = trainer(tmp_path, dataset=Late("train", what), accumulate_steps=2)
    with pytest.raises(NonFiniteError, match=r"became nan in step \d\. Data set 'toy', ") as caught:
        loop.fit()
    assert f"{text}3" in str(caught.value)
    assert "lr" not in str(caught.value)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize(("what", "text"), [("inputs", INPUTS), ("kind", KIND)])
def test_an_evaluation_of_wrong_data_names_them(
    what: str, text: str, split: Split, tmp_path: Path
) -> None:
    loop = trainer(tmp_path, dataset=Late(split, what))
    with pytest.raises(ConfigError, match=f"^Data set 'toy', split {split}") as caught:
        loop.fit()
    assert text in str(caught.value)


def test_a_later_target_of_another_shape_is_never_broadcast(tmp_path: Path) -> None:
    class Column(ToyDataset):
        def batch(self, split: Split, indices: torch.Tensor) -> Batch:
            batch = super().batch(split, indices)
            column = batch.targets["value"].unsqueeze(1)
            return Batch(batch.inputs, {**batch.targets, "value": column})

    loop = trainer(tmp_path, dataset=Column())
    with pytest.raises(ConfigError, match=r"Task 'value': the target must have shape \[6\]"):
        loop.fit()


# ---- early stopping, plateaus, averaged weights

SCRIPTED: dict[str, Any] = {"select": "val/value/mse"}


@pytest.mark.parametrize(("patience", "stops_after"), [(1, 2), (2, 5), (3, 7), (None, 7)])
def test_training_stops_after_so_many_evaluations_without_a_better_one(
    patience: int | None, stops_after: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = (5.0, 5.0, 4.0, 6.0, math.nan, 3.0, 3.5)
    caplog.set_level(logging.INFO)
    loop = trainer(tmp_path / "run", **SCRIPTED, script=script, epochs=7, patience=patience)
    loop.fit()
    state = loop.run.state
    best = min(range(stops_after), key=lambda i: (math.isnan(script[i]), script[i])) + 1
    assert (state.epoch, state.best_epoch) == (stops_after, best)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["state"]["epoch"] == stops_after
    said = f"Stopped early after epoch {stops_after} of 7: no better val/value/mse in {patience}"
    assert (said in caplog.text) == (stops_after < 7)
    again = trainer(tmp_path / "run", **SCRIPTED, script=script, epochs=7, patience=patience)
    again.checkpoints.resume()
    again.fit()  # nothing is left to train
    assert again.run.state.step == state.step


def test_more_patience_ends_as_if_it_had_been_there_from_the_start(tmp_path: Path) -> None:
    script = (5.0, 6.0, 4.0, 6.0, 6.0)
    whole = trainer(tmp_path / "whole", **SCRIPTED, script=script, epochs=5, patience=2)
    expected = whole.fit()
    trainer(tmp_path / "run", **SCRIPTED, script=script, epochs=5, patience=1).fit()
    loop = trainer(tmp_path / "run", **SCRIPTED, script=script, epochs=5, patience=2)
    loop.checkpoints.resume()
    assert loop.run.state.step == 6
    assert loop.fit() == expected
    for p, q in zip(loop.run.model.parameters(), whole.run.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_plateau_is_one_of_evaluations_however_rare(tmp_path: Path) -> None:
    """Every second epoch of seven, and the last: values 5, 5, 5, 4 with patience 1."""
    script = (0.0, 5.0, 0.0, 5.0, 0.0, 5.0, 4.0)
    loop = trainer(tmp_path, **SCRIPTED, script=script, epochs=7, eval_every_epochs=2)
    (group,) = loop.run.groups
    group.interval = "evaluation"
    group.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(group.optimizer, "min", 0.5, 1)
    loop.fit()
    rates = {r["epoch"]: r["train/lr"] for r in loop.recorder.records if "train/lr" in r}
    assert list(rates.values()) == [0.1] * 6 + [0.05]
    assert group.scheduler.last_epoch == 4


def test_the_averaged_weights_are_evaluated_selected_and_saved(tmp_path: Path) -> None:
    def averaging(folder: Path) -> Any:
        loop = trainer(folder, "rotograd")
        loop.run.average = WeightAverage(loop.run.model, 0.5)
        loop.evaluator.model = loop.run.evaluated_model
        return loop

    plain = trainer(tmp_path / "plain", "rotograd")
    plain.fit()
    loop = averaging(tmp_path / "run")
    metrics = loop.fit()
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    trained = load_checkpoint(tmp_path / "plain" / "last.pt")["model"]
    for name, value in trained.items():  # training is that of a run without the average
        assert torch.equal(last["followed"][name], value)
    assert last["num_averaged"] == 9
    served = toy_model("rotograd")
    best = load_checkpoint(tmp_path / "run" / "best.pt")
    served.load_state_dict(best["model"])
    whole = loop.dataset.batches("test", torch.arange(9).split(4))
    tested = {key: value for key, value in metrics.items() if key.startswith("test/")}
    assert evaluate(served, TASKS, whole, "test") == tested
    resumed = averaging(tmp_path / "run")
    resumed.train_epoch()
    resumed.checkpoints.resume()
    content = content_of(resumed.run)
    for key in ("model", "followed"):
        for name, value in last[key].items():
            assert torch.equal(content[key][name], value)
    assert content["num_averaged"] == 9


def test_a_skipped_step_leaves_the_average_alone(tmp_path: Path) -> None:
    loop = trainer(tmp_path, on_nonfinite="skip", max_skipped_steps=1)
    loop.run.average = WeightAverage(loop.run.model, 0.5)
    batches = next(loop.batches.steps(0))
    loop.stepper.take(batches)
    bad = [Batch(torch.full_like(b.inputs, math.inf), b.targets) for b in batches]
    loop.stepper.take(bad)
    assert (loop.run.state.skipped_steps, loop.run.average.num_updates) == (1, 1)
