"""Networks of timm, by name."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from rotograd_cli.errors import ConfigError, DatasetError, first_line, suggest
from rotograd_cli.extras import needing_extra
from rotograd_cli.models.features import LibraryNetwork, Pool
from rotograd_cli.models.layers import require_images

logger = logging.getLogger(__name__)


class TimmNetwork(LibraryNetwork):
    """A network of timm without its classifier, or up to one of its layers.

    timm fits the first convolution to the channels of the images. Dropout and stochastic depth are
    off unless ``options`` turns them on.

    Args:
        input_shape: Channels, height and width of an image.
        model: Name, as in ``timm.list_models()``; with a tag (``resnet18.a1_in1k``) it also names
            the weights of ``pretrained``.
        pretrained: Start from timm's weights, which are downloaded once from Hugging Face's hub.
            Weights in a file are loaded by ``init_from``.
        layer: Name of a layer or node whose output is taken; None takes what the classifier gets.
        pool: See :func:`~rotograd_cli.models.features.pooled`.
        options: Further arguments of ``timm.create_model``; ``img_size`` where a network needs it.

    Raises:
        ConfigError: If timm is not installed, the inputs are no images, or there is no such
            network, layer or option.
        DatasetError: If the weights can neither be read nor downloaded.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        model: str,
        pretrained: bool,
        layer: str | None,
        pool: Pool,
        options: Mapping[str, Any],
    ) -> None:
        with needing_extra("backbone=timm", "timm", "Apache 2.0"):
            import timm
            from timm import layers
        require_images("TimmNetwork", input_shape, 1, "backbone=mlp for other inputs")
        if not timm.is_model(model):  # a name of the hub would be looked for there
            raise ConfigError(
                f"`backbone.model` must be a network of timm, got {model!r}; "
                f"{suggest(model, timm.list_models())}"
            )
        if pretrained:
            logger.info(
                "Weights of %s are read from the cache of Hugging Face's hub, or downloaded once; "
                "with HF_HUB_OFFLINE=1 in the environment nothing is downloaded.",
                model,
            )
        try:
            network = timm.create_model(
                model, pretrained=pretrained, in_chans=input_shape[0], num_classes=0, **options
            )
        except Exception as error:  # the hub's client raises many kinds
            if not pretrained:
                raise
            raise DatasetError(
                f"timm's weights of {model} could not be read or downloaded "
                f"({first_line(error)}); load a file with backbone.pretrained=false "
                "init_from=FILE, or train from scratch with backbone.pretrained=false."
            ) from error
        super().__init__(network, layer, pool, layers)
