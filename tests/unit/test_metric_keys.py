"""Keys of metrics, read and written."""

import math

from rotograd_cli.metric_keys import MetricKey, of_split


def test_a_key_is_written_as_it_was_read() -> None:
    for text in ("left/accuracy", "normals/within_11.25", "mean_f1", "loss"):
        assert str(MetricKey.parse(text)) == text
    assert MetricKey.parse("left/loss").task == "left"
    assert MetricKey.parse("geomean_loss").task is None


def test_a_split_has_its_own_values_alone_and_nan_for_null() -> None:
    pairs = {"val/left/right/cosine": 0.1, "val/conflict/rate": 0.5}  # are no metrics
    record = {"step": 3.0, "val/left/loss": 0.5, "val/loss": None, "test/left/loss": 1.0, "val": 2}
    values = of_split(pairs | record, "val")
    assert values[MetricKey("left", "loss")] == 0.5
    assert math.isnan(values[MetricKey(None, "loss")])
    assert len(values) == 2
