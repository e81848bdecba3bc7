"""Which run `resume=` means."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rotograd_cli.errors import ConfigError, OccupiedError, suggested
from rotograd_cli.runs.config import COMMAND_KEYS, TrainConfig
from rotograd_cli.runs.directory import is_used
from rotograd_cli.runs.identity import UNCOUNTED, holds_run
from rotograd_cli.runs.saved import load_run_config
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.trust import Trust


@dataclass(frozen=True)
class Target:
    """A run to train."""

    config: TrainConfig
    run_dir: Path
    resumed: bool
    """Whether it is there already, so that its newest checkpoint is gone on from."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        summary = RunSummary.read(self.run_dir) if self.resumed else None
        return summary is not None and summary.is_finished and summary.is_complete


def named_run(
    name: str, config: TrainConfig, overrides: Sequence[str], trust: Trust | None = None
) -> Target:
    """The run of ``resume=DIR``, as it was configured.

    Args:
        name: Its directory.
        config: What the command line composes.
        overrides: The command line's overrides; those that change no result count.
        trust: What the user vouches for.

    Returns:
        The run.

    Raises:
        ConfigError: If it is no run directory, an override would make it another run, or it would
            run or send what the user has not vouched for.
    """
    run_dir = Path(name).expanduser()
    result = load_run_config(run_dir, "resume")
    saved = asdict(result)
    for word in overrides:
        key = word.partition("=")[0].lstrip("+~").replace("@", ".").split(".")[0]
        if key in COMMAND_KEYS or word == "debug=nonfinite":
            continue
        if key not in UNCOUNTED:
            raise ConfigError(
                f"`resume` goes on with {name} as it was configured, got {word} too; leave that "
                f"out (only {', '.join(UNCOUNTED)} may change) or start a new run."
            )
        setattr(result, key, getattr(config, key))
        saved.pop(key, None)
    trust = trust or Trust()
    trust.check(saved, run_dir / "config.yaml", run_dir)
    trust.check_destination(saved.get("logger"), run_dir / "config.yaml")
    return Target(result, run_dir, resumed=True)


def same_run(config: TrainConfig, run_dir: Path, folders: Sequence[Path]) -> Target:
    """The run of ``resume=auto``: the newest with this configuration, else a new one.

    Args:
        config: What was asked for.
        run_dir: Where a new run would go; if a run is there, it is the one.
        folders: Other run directories.

    Returns:
        An unfinished run before a finished one, before a new one.

    Raises:
        OccupiedError: If ``run_dir`` holds the run of another configuration.
    """
    if is_used(run_dir):
        if not holds_run(run_dir, config):
            raise OccupiedError(
                f"{run_dir} holds a run of another configuration; choose another folder, or "
                f"{suggested('train', f'resume={run_dir}')} goes on with that one."
            )
        return Target(config, run_dir, resumed=True)
    targets = [Target(config, f, resumed=True) for f in folders if holds_run(f, config)]
    targets.sort(key=lambda target: (not target.finished, _age(target.run_dir)))
    return targets[-1] if targets else Target(config, run_dir, resumed=False)


def _age(run_dir: Path) -> int:
    return (run_dir / "config.yaml").stat().st_mtime_ns
