"""Reading ``.npy`` files that may be damaged."""

from pathlib import Path

import numpy as np


def load_array(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file; never executes code from it.

    Args:
        path: The file.

    Returns:
        The array, of any shape and type.

    Raises:
        ValueError: If the file is missing or holds no array; its text is the reason, one line.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # damaged bytes make the parser of headers raise anything
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ValueError(reason) from error
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive")
    return array
