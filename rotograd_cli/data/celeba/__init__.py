"""CelebA."""

from rotograd_cli.data.celeba.dataset import CelebA

__all__ = ["CelebA"]
