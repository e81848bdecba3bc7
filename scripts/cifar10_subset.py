"""Write a sample of CIFAR10 in the file layout of torchvision, for data=cifar10 data.limit=N.

usage: python scripts/cifar10_subset.py SAMPLE.npz DIR

SAMPLE.npz holds train_images [N, 32, 32, 3] of uint8, train_labels [N], test_images and
test_labels; DIR gets a folder cifar-10-batches-py. Images are put in random order (seed 0), so that
a part of them has all classes.
"""

import pickle
import sys
from pathlib import Path

import numpy as np


def main(sample: Path, data_dir: Path) -> None:
    """Write five training files of equal size and the test file."""
    folder = data_dir / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = np.load(sample)
    order = np.random.default_rng(0).permutation
    train = np.array_split(order(len(arrays["train_labels"])), 5)
    for number, chosen in enumerate(train, start=1):
        write(folder / f"data_batch_{number}", arrays, "train", chosen)
    write(folder / "test_batch", arrays, "test", order(len(arrays["test_labels"])))
    num_train = len(arrays["train_labels"])
    print(f"{folder}: train with data=cifar10 data.limit={num_train} paths.data_dir={data_dir}")


def write(path: Path, arrays: np.lib.npyio.NpzFile, part: str, chosen: np.ndarray) -> None:
    """Pickle the chosen images, red, green and blue one after another, as the official files."""
    images = arrays[f"{part}_images"][chosen].transpose(0, 3, 1, 2).reshape(len(chosen), -1)
    labels = arrays[f"{part}_labels"][chosen].tolist()
    content = pickle.dumps({"data": np.ascontiguousarray(images), "labels": labels}, protocol=4)
    path.write_bytes(content)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/cifar10_subset.py SAMPLE.npz DIR")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
