"""Classification networks of torchvision, by name."""

import copy
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from torch import nn
from torchvision.models import feature_extraction

from rotograd_cli.errors import ConfigError, DatasetError, first_line, suggest
from rotograd_cli.models.features import (
    LibraryNetwork,
    Pool,
    first_convolution,
    weight_for_channels,
)
from rotograd_cli.models.layers import require_images

_AUXILIARY = ("aux1", "aux2", "AuxLogits")
"""Classifiers of GoogLeNet and Inception that help in training."""


class TorchvisionNetwork(LibraryNetwork):
    """A classification network of torchvision without its classifier, or up to one of its layers.

    Its first convolution fits the images: with weights, by
    :func:`~rotograd_cli.models.features.weight_for_channels`; without, it starts as ``nn.Conv2d``
    does. GoogLeNet and Inception take images as they are (``transform_input`` is off), and have
    neither auxiliary classifiers nor dropout before the classifier. Dropout and stochastic depth
    inside of a network stay (``options`` turns them off).

    Args:
        input_shape: Channels, height and width of an image.
        model: Name, as in ``torchvision.models.list_models()``.
        weights: Name of weights of torchvision: ``DEFAULT`` for its best. They are downloaded once,
            into the folder that torch keeps models in (``TORCH_HOME``). None draws them. Weights in
            a file are loaded by ``init_from``.
        layer: Name of a layer or node whose output is taken; None takes what the classifier gets.
        pool: See :func:`~rotograd_cli.models.features.pooled`.
        options: Further arguments of the network in torchvision.

    Raises:
        ConfigError: If the inputs are no images, or there is no such network, weights, layer or
            option.
        DatasetError: If the weights can neither be read nor downloaded.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        model: str,
        weights: str | None,
        layer: str | None,
        pool: Pool,
        options: Mapping[str, Any],
    ) -> None:
        require_images("TorchvisionNetwork", input_shape, 1, "backbone=mlp for other inputs")
        options = dict(options)
        if model.startswith("vit_"):
            options.setdefault("image_size", input_shape[1])
        network = _without_classifier(_network(model, weights, options))
        _fit_channels(network, input_shape[0], keep=weights is not None)
        super().__init__(network, layer, pool, feature_extraction)


def _network(model: str, weights: str | None, options: Mapping[str, Any]) -> nn.Module:
    names = torchvision.models.list_models(module=torchvision.models)
    if model not in names:
        raise ConfigError(
            f"`backbone.model` must be a classification network of torchvision, got {model!r}; "
            f"{suggest(model, names)}"
        )
    make: Callable[..., nn.Module] = torchvision.models.get_model
    if weights is None:
        return make(model, weights=None, **options)
    chosen = _weights(model, weights)
    with readable(chosen, "backbone.weights=null"):
        return make(model, weights=chosen, **options)


def _weights(model: str, name: str) -> Any:
    choices = torchvision.models.get_model_weights(model)
    if name not in choices.__members__:
        raise ConfigError(
            f"`backbone.weights` must be null or weights of torchvision's {model} "
            f"({', '.join(choices.__members__)}), got {name!r}; load a file with init_from=FILE."
        )
    return choices[name]


@contextmanager
def readable(weights: Any, scratch: str) -> Iterator[None]:
    """Inside, weights that can be neither read nor downloaded are refused.

    Args:
        weights: One of torchvision's.
        scratch: Override that does without.

    Raises:
        DatasetError: If that fails: no connection, no permission, a damaged file.
    """
    try:
        yield
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise DatasetError(
            f"The ImageNet weights {Path(weights.url).name} could not be read or downloaded "
            f"({first_line(error)}); put the file of {weights.url} into {folder}, or train from "
            f"scratch with {scratch}."
        ) from error


def _without_classifier(network: nn.Module) -> nn.Module:
    *_, (last, _) = network.named_children()
    setattr(network, last, nn.Identity())
    for name in _AUXILIARY:
        if hasattr(network, name):
            setattr(network, name, None)
    if hasattr(network, "aux_logits"):
        vars(network).update(aux_logits=False, transform_input=False)
        network.dropout = nn.Identity()
    return network


def _fit_channels(network: nn.Module, num_channels: int, *, keep: bool) -> None:
    """Let the first convolution take images of so many channels; ``keep`` its weights."""
    found = first_convolution(network)
    assert found is not None
    _, convolution = found
    if convolution.in_channels == num_channels:
        return
    old = copy.deepcopy(convolution)
    size = (old.out_channels, num_channels, *old.kernel_size)
    convolution.in_channels = num_channels
    convolution.weight = nn.Parameter(torch.empty(size))
    convolution.reset_parameters()
    if keep:
        convolution.weight.data = weight_for_channels(old.weight.data, num_channels)
        convolution.bias = old.bias
