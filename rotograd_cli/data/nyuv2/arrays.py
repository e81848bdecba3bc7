"""Reading ``.npy`` files that may be damaged."""

from collections.abc import Callable
from io import BytesIO

import numpy as np

from rotograd_cli.errors import first_line

_MAGIC = b"\x93NUMPY"


def load_array(name: str, read: Callable[[str], bytes]) -> np.ndarray:
    """Return the array of a ``.npy`` file, of any shape and type; never execute code from it.

    Args:
        name: The file.
        read: Reads a file by its name.

    Raises:
        ValueError: If the file is missing or holds no array; its text is the reason, one line.
    """
    try:
        content = read(name)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if not content.startswith(_MAGIC):
        raise ValueError(f"a file that begins with {content[:10]!r}")
    try:
        array: np.ndarray = np.load(BytesIO(content), allow_pickle=False)
    except Exception as error:  # damaged bytes make the parser of headers raise anything
        reason = first_line(error)
        if "allow_pickle" in reason:  # NumPy's advice would run code from the file
            reason = "Python objects instead of numbers"
        raise ValueError(reason) from error
    return array
