"""CIFAR10 as ten binary tasks."""

from rotograd_cli.data.cifar10.dataset import CIFAR10 as CIFAR10
