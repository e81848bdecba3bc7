"""Shrink a figure for the documentation: python scripts/small_png.py SOURCE TARGET [WIDTH].

The target has 128 colours and WIDTH pixels (1000 by default) in a row. Needs pillow, which comes
with matplotlib.
"""

import sys
from pathlib import Path

from PIL import Image


def main(source: Path, target: Path, width: int = 1000) -> None:
    """Write the smaller file and print its size."""
    image = Image.open(source).convert("RGB")
    height = round(image.height * width / image.width)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    method = Image.Quantize.FASTOCTREE  # keeps greys grey and rare colours
    image.quantize(128, method=method, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {width} x {height}, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:4]))
