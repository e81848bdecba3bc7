"""``compile=true``: backbone and heads through torch.compile."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from rotograd_cli.errors import ConfigError, first_line


def compile_networks(networks: Iterable[nn.Module]) -> None:
    """Have every network compiled at its first call, each as one graph.

    The modules stay what they are: their parameters, names and ``state_dict`` do not change.

    Args:
        networks: Backbone and heads.
    """
    for network in networks:
        network.compile(fullgraph=True)


@contextmanager
def compilation(enabled: bool) -> Iterator[None]:
    """Inside, as many networks as there are may be compiled, and none falls back unnoticed.

    Compiled modules share the code object of ``nn.Module``'s call, to which torch's limit of
    compiled variants applies: with several networks the later ones would silently run eagerly.

    Args:
        enabled: Whether anything is compiled.

    Raises:
        ConfigError: If a network cannot be compiled as one graph.
    """
    if not enabled:
        yield
        return
    from torch._dynamo import config  # heavy

    try:
        with config.patch(
            recompile_limit=1024, accumulated_recompile_limit=8192, fail_on_recompile_limit_hit=True
        ):
            yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = first_line(error).rstrip(".")
        raise ConfigError(
            f"`compile` cannot be true here: torch.compile fails ({reason}); install a compiler, "
            "or leave it out."
        ) from error
