"""Composition of configurations by Hydra, outside of a command that Hydra itself runs."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from rotograd_cli.config.files import config_dir
from rotograd_cli.config.packing import register_resolvers
from rotograd_cli.config.schema import (
    BenchConfig,
    EvaluateConfig,
    ExportConfig,
    PlotConfig,
    PredictConfig,
    ReportConfig,
    RunsConfig,
    TrainCommand,
    plain_values,
)


def register_schemas(**schemas: type) -> None:
    """Make the schemas and resolvers known to Hydra under the names that the YAML files use.

    Args:
        **schemas: Further dataclasses by name.
    """
    register_resolvers()
    schemas |= {
        "train_schema": TrainCommand,
        "bench_schema": BenchConfig,
        "evaluate_schema": EvaluateConfig,
        "export_schema": ExportConfig,
        "plot_schema": PlotConfig,
        "predict_schema": PredictConfig,
        "report_schema": ReportConfig,
        "runs_schema": RunsConfig,
    }
    for name, schema in schemas.items():
        ConfigStore.instance().store(name=name, node=schema)


@contextmanager
def composing(**schemas: type) -> Iterator[None]:
    """Inside, configurations can be composed: Hydra is running on the YAML files of this package.

    Args:
        **schemas: As :func:`register_schemas`.
    """
    register_schemas(**schemas)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), job_name="rotograd", version_base="1.3"):
        yield


class _ReadOnce(ConfigRepository):
    """Reads every file once: Hydra itself does so anew for each configuration."""

    def __init__(self, of: ConfigRepository) -> None:
        self.sources = of.sources
        self._results: dict[tuple[str, ...], ConfigResult | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "_ReadOnce":
        """Share what was read: Hydra copies for other sources, which are replaced, not changed."""
        return copy.copy(self)

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Return a copy of the content, as Hydra merges into it."""
        key = (*(source.path for source in self.sources), config_path)
        if key not in self._results:
            self._results[key] = super().load_config(config_path)
        return copy.deepcopy(self._results[key])


@contextmanager
def composing_many() -> Iterator[None]:
    """As :func:`composing`, for many configurations at once: no file may change meanwhile."""
    with composing():
        loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        loader.repository = _ReadOnce(loader.repository)
        yield


def component_node(group: str, name: str, **context: Any) -> dict[str, Any]:
    """Return the content of a file of a group, the built-in ones' or the user's (``--config-dir``).

    Args:
        group: Group, e.g. ``method``.
        name: File, without its suffix.
        **context: Keys of the configuration that the file refers to, with plain values.

    Returns:
        The node as a plain dictionary. Hydra must be running.

    Raises:
        ConfigError: If there is no such file.
    """
    without_types: Any = OmegaConf.to_container(compose(f"{group}/{name}"), resolve=False)
    config = OmegaConf.merge(without_types, context)
    assert isinstance(config, DictConfig)
    return plain_values(config[group])


def component_names(group: str) -> list[str]:
    """Return the files of a group, without their suffix, sorted; see :func:`component_node`."""
    names: list[str] = sorted(GlobalHydra.instance().config_loader().get_group_options(group))
    return names
