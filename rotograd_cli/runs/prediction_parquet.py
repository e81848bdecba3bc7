"""Predictions as Parquet: the one place that imports pyarrow."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from rotograd_cli.errors import ConfigError
from rotograd_cli.extras import installing
from rotograd_cli.runs.prediction_columns import filler

try:
    import pyarrow as pa
    from pyarrow import parquet
except ImportError as error:
    raise ConfigError(
        f"Parquet needs pyarrow, which is not installed; run {installing('parquet')}, "
        "or write a file .npz."
    ) from error

_ABOUT = b"rotograd"
_FORMS = b"rotograd_columns"
"""Metadata: dtype and shape of a row, by column."""


def write_parquet(file: IO[bytes], columns: Mapping[str, np.ndarray], about: str) -> None:
    """Write columns; a target is null where there is none.

    Args:
        file: Open binary file.
        columns: Columns by name, rows without or with one axis.
        about: What they are of, in JSON.
    """
    arrays = {}
    for name, values in columns.items():
        task, _, kind = name.rpartition("/")
        if kind != "has_target":
            missing = ~columns[f"{task}/has_target"] if kind == "target" else None
            arrays[name] = _to_arrow(np.asarray(values), missing)
    forms = {name: [columns[name].dtype.str, columns[name].shape[1:]] for name in arrays}
    metadata = {_ABOUT: about.encode(), _FORMS: json.dumps(forms).encode()}
    parquet.write_table(pa.table(arrays).replace_schema_metadata(metadata), file)


def read_parquet(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what the columns are of, and the columns as they were before they were written.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no file of this kind.
        KeyError: Likewise.
    """
    table = parquet.read_table(path)
    metadata = table.schema.metadata or {}
    about: dict[str, Any] = json.loads(metadata[_ABOUT])
    columns = {}
    for name, (dtype, shape) in json.loads(metadata[_FORMS]).items():
        array = table[name].combine_chunks()
        columns[name] = _from_arrow(array, np.dtype(dtype), tuple(shape))
        task, _, kind = name.rpartition("/")
        if kind == "target":
            columns[f"{task}/has_target"] = array.is_valid().to_numpy(zero_copy_only=False)
    for task in about["tasks"]:
        columns.setdefault(f"{task}/has_target", np.zeros(len(table), bool))
    return about, columns


def _to_arrow(values: np.ndarray, missing: np.ndarray | None) -> Any:
    if values.size == len(values):
        return pa.array(values.reshape(-1), mask=missing)
    rows = values.reshape(len(values), -1)
    mask = None if missing is None else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1], mask=mask)


def _from_arrow(array: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    num_rows = len(array)
    flat = array.values if pa.types.is_fixed_size_list(array.type) else array
    if flat.null_count:
        flat = flat.fill_null(filler(dtype))
    values: np.ndarray = flat.to_numpy(zero_copy_only=False).astype(dtype)
    return values.reshape(num_rows, *shape)
