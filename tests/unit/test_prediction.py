"""Predictions for given examples: those of the model itself, in the order that was asked for."""

import random
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, Split
from rotograd_cli.errors import ConfigError
from rotograd_cli.training.prediction import predict_examples
from tests.toy import METHODS, ToyDataset, toy_model


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_those_of_the_single_examples_in_the_order_asked_for(method: str) -> None:
    model = toy_model(method, torch.float64)
    dataset = ToyDataset(dtype=torch.float64)
    order = [7, 0, 10, 3, 3]
    batches = list(predict_examples(model, dataset, "val", order, batch_size=2))
    assert [batch.indices.tolist() for batch in batches] == [[7, 0], [10, 3], [3]]
    model.eval()
    with torch.no_grad():
        for batch in batches:
            for row, index in enumerate(batch.indices.tolist()):
                x = dataset.inputs["val"][index : index + 1]
                assert torch.equal(batch.inputs[row], x[0])
                for task, prediction in zip(dataset.tasks, model(x), strict=True):
                    torch.testing.assert_close(batch.predictions[task.name][row], prediction[0])
                    expected = dataset.targets["val"][task.name][index]
                    assert torch.equal(batch.targets[task.name][row], expected)


def test_nothing_changes_but_the_mode_until_the_iterator_is_closed() -> None:
    model = toy_model("rotograd")
    model.train()
    model.heads[0].eval()  # frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = (random.getstate(), np.random.get_state()[2], torch.get_rng_state())
    iterator = predict_examples(model, ToyDataset(), "test", torch.arange(9), batch_size=4)
    first = next(iterator)
    assert not model.training
    assert not any(x.requires_grad for x in (first.inputs, *first.predictions.values()))
    assert torch.is_grad_enabled()
    iterator.close()  # type: ignore[attr-defined]  # a generator
    assert model.training
    assert not model.heads[0].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (random.getstate(), np.random.get_state()[2]) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert list(predict_examples(model, ToyDataset(), "test", [])) == []
    (whole,) = predict_examples(model, ToyDataset(), "test", range(9))
    assert len(whole.inputs) == 9


@pytest.mark.parametrize("num", [1, 3])
def test_a_data_set_with_another_number_of_batches_is_refused(num: int) -> None:
    class Wrong(ToyDataset):
        def batches(self, split: Split, parts: Iterable[Tensor]) -> Iterator[Batch]:
            return (self.batch(split, torch.arange(4)) for _ in range(num))

    with pytest.raises(ConfigError, match=f"each of the 2 parts, got {num}"):
        list(predict_examples(toy_model(), Wrong(), "val", range(8), batch_size=4))
