"""The command line: which command, then Hydra. Heavy imports happen inside the commands."""

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from rotograd_cli.errors import (
    CELL_FAILED,
    OTHER_REPLAY,
    RUN_FAILED,
    WRONG_INPUT,
    Refusal,
    exit_code,
    one_line,
)
from rotograd_cli.printing.streams import enduring_output
from rotograd_cli.ranks import launch
from rotograd_cli.runs.words import config_dirs, ready
from rotograd_cli.training import interrupts

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

    from rotograd_cli.runs.resuming import Target
    from rotograd_cli.runs.summary import RunSummary
    from rotograd_cli.tables.parts import Table

COMMANDS = {
    "train": "train one run, or a sweep with -m",
    "evaluate": "metrics of a finished run's checkpoint: rotograd evaluate run=DIR [split=test]",
    "replay": "the step in which a run met infinity or NaN: rotograd replay DUMP",
    "data": "files of a data set: rotograd data check | prepare NAME",
    "table": "a table of finished runs: rotograd table runs=GLOB [table=NAME] [output=DIR]",
    "reproduce": "train what a table needs, then print it: rotograd reproduce table=NAME",
    "plot": "a figure of a table's runs: rotograd plot figure=NAME",
    "bench": "step time and memory beside plain autograd and the authors' package",
}
GROUPS = (
    "method",
    "data",
    "backbone",
    "head",
    "optimizer",
    "scheduler",
    "experiment",
    "debug",
    "logger",
)
_DATA_HELP = """usage: rotograd data check [NAME] [KEY=VALUE ...]
       rotograd data prepare NAME [--from FILE] [--workers N] [KEY=VALUE ...]

check     are the files there and right? what is missing, where to get it; without a name: all sets
prepare   decode the files once into what training reads; an interrupted preparation goes on

--from FILE   source other than the files in the data root: nyu_depth_v2_labeled.mat for nyuv2
--workers N   threads; all cores by default
KEY=VALUE     what training will be given too: paths.data_dir=DIR, data.limit=1000
--config-dir  a folder of your own YAML files: DIR/data/foo.yaml

The data root is paths.data_dir, or the variable ROTOGRAD_DATA, or ./data."""
_REPLAY_HELP = """usage: rotograd replay DUMP [KEY=VALUE ...]

Takes the step that ended a run again: RUN/checkpoints/nonfinite.pt holds its batch, its losses and
all that the run was made of before it. Says which losses are not finite and where that began.

device=cpu      another device than the run's
dtype=float64   in double precision: does the step fail there too? (float32, float64)
data_dir=DIR    where the files of the data set are; the batch itself is in the dump
trust=true      the dump may name components from outside this package and torch: they are run
--config-dir    a folder of your own YAML files: what they name may be run

Exit codes: 0 if the step fails with the same numbers, 3 if they differ or it does not fail, 2 for
wrong input."""
_SINGLE = {"bench": "measures one configuration", "table": "builds one table"}
HYDRA_FLAGS = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: Words after the program's name; None takes the process's.

    Returns:
        Exit code: 0 done, 1 a cell of a sweep failed, 2 wrong input, 3 a replayed step came out
        in another way, 4 the run failed after it had begun, 128 + the signal's number after a
        signal (130 after Ctrl-C).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with enduring_output(), interrupts.quitting(_farewell):
        try:
            code = _dispatch(words)
        except KeyboardInterrupt as interrupt:
            _farewell()
            code = interrupts.exit_code(interrupt)
    launch.end_process(code)
    return code


def _farewell() -> None:
    workers: Any = sys.modules.get("rotograd_cli.commands.workers")
    going_on = workers.stop_launcher() if hasattr(workers, "stop_launcher") else []
    _remove_unused_folders()
    said = "Interrupted; a run that had begun keeps its last checkpoint."
    if launch.job_rank() == 0:
        print(" ".join([said, *going_on]), file=sys.stderr)


def _dispatch(words: list[str]) -> int:
    if words and words[0] in ("-sc", "--shell-completion"):
        return _complete(words)
    if not words or words[0] in ("-h", "--help", "help"):
        return _print(_help())
    if "--version" in words:
        return _print(_version())
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        return _fail(f"{command!r} is not a command; {_suggest_command(command)}")
    return _run(command, rest)


def _run(command: str, words: list[str]) -> int:
    """A command: wrong input is one line, exit code 2 and no folder left behind."""
    try:
        code = _command(command, words)
        if sys.stdout is not None:
            sys.stdout.flush()  # the disk that it goes to may be full
    except BaseException as error:
        _remove_unused_folders()
        if not isinstance(error, Exception):
            raise
        from rotograd_cli.runs.messages import explain

        message = explain(error, command, words)
        if message is None and launch.job_size() > 1:
            launch.say_death(error)
            return 1
        if message is None:
            message = _lost_job(error)
            return _sweep_failures(message)
        return _fail(message, exit_code(error))
    return code


def _command(command: str, words: list[str]) -> int:
    if any(word in ("-h", "--help") for word in words):
        return _print(_command_help(command, words))
    if command == "replay":  # whose words Hydra never sees
        return _replay(words)
    ready_words = ready(words, command)
    if command == "data":
        from rotograd_cli.commands import data as data_command

        return data_command.run(ready_words)
    if command == "reproduce":
        return _reproduce(ready_words)
    if command == "plot":
        return _plot(ready_words)
    _run_hydra(command, ready_words, program=f"rotograd {command}")
    return _sweep_failures()


def _lost_job(error: Exception) -> str:
    """A job that its launcher lost, after the status of the others; any other error is a bug."""
    from rotograd_cli.commands.sweep import print_unfinished
    from rotograd_cli.commands.workers import launcher_failure

    message = launcher_failure(error)
    if message is None:
        raise error
    print_unfinished()
    return message


def _run_hydra(command: str, words: list[str], *, program: str) -> None:
    """Hydra's entry point, raising whatever went wrong."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting
    import hydra

    from rotograd_cli.runs.config import config_dir, register_schemas

    sys.argv = [program, *_words_of_rank(_checked_words(command, words), command)]
    register_schemas()
    if command == "table":
        from rotograd_cli.tables.command import register_schema

        register_schema()
    commands = {"train": _train, "evaluate": _evaluate, "table": _table, "bench": _bench}
    task = _Task(commands[command])
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command)(task)()
    except Refusal as refusal:
        raise refusal.error from None
    finally:
        if task.error is not None:  # also where a sweeper stumbled over the missing value
            raise task.error


def _words_of_rank(words: list[str], command: str) -> list[str]:
    """The words, for a process of a launcher's job: the first one alone has a run directory."""
    from rotograd_cli.errors import ConfigError

    if launch.job_size() == 1:
        return words
    if command != "train" or any(word in ("-m", "--multirun") for word in words):
        what = "a sweep" if command == "train" else f"rotograd {command}"
        raise ConfigError(
            f"torchrun starts one training, got {what} in {launch.job_size()} processes; start it "
            "without torchrun."
        )
    if launch.job_rank() == 0:
        return words
    return [*(word for word in words if not word.startswith("hydra.run.dir=")), "hydra.run.dir=."]


class _Task:
    """A command that hands its error to the caller: Hydra would print about it first.

    A launcher's worker process has a copy, whose error Hydra must carry to the caller.
    """

    def __init__(self, command: "Callable[[DictConfig], float | None]") -> None:
        self._command = command
        self._process = os.getpid()
        self.error: Exception | None = None

    def __call__(self, config: "DictConfig") -> float | None:
        try:
            return self._command(config)
        except Exception as error:  # raised again by the caller
            if os.getpid() != self._process:
                raise
            self.error = error
            return None


def _train(config: "DictConfig") -> float | None:
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from rotograd_cli.commands.sweep import check_direction
    from rotograd_cli.printing.terminal import print_grid
    from rotograd_cli.runs.experiment import train
    from rotograd_cli.runs.report import remarks, run_table, training_time
    from rotograd_cli.runs.summary import RunSummary

    launch.read_launcher()
    hydra_config = HydraConfig.get()
    # as written: an interpolation among them refers to the configuration, not to this list
    overrides: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    several = hydra_config.mode == RunMode.MULTIRUN
    run_dir = Path(hydra_config.runtime.output_dir)

    def run() -> RunSummary:
        nonlocal run_dir
        with launch.joined(str(config.device)) as ranks:
            target = ranks.same(lambda: _target(config, run_dir, overrides, several))
            run_dir = target.run_dir
            if target.resumed and not several:
                _remove_unused_folders()  # Hydra's, for a new run
            if target.finished and ranks.is_first:
                print(f"{os.path.relpath(run_dir)} is finished.", file=sys.stderr)
            if target.finished:
                return RunSummary.read(run_dir) or RunSummary()
            return train(target.config, run_dir, overrides, resume=target.resumed, ranks=ranks)

    if several:
        check_direction(hydra_config.sweeper, config.train.select_mode)
        summary = _cell(run, run_dir, overrides, hydra_config)
    else:
        summary = run()
        if launch.job_rank() == 0:
            print_grid(run_table(summary))
            for line in (f"Protocol: {summary.protocol}.", *remarks(summary.notes)):
                print(line)
            print(training_time(summary))
            print(f"Run directory: {os.path.relpath(run_dir)}")
    value = summary.selected_value
    worst = float("inf" if config.train.select_mode == "min" else "-inf")  # for a sweeper
    return worst if value is None else value


def _target(config: "DictConfig", run_dir: "Path", overrides: list[str], several: bool) -> "Target":
    """The run that is meant: a new one, or one that ``resume`` names or finds."""
    from pathlib import Path

    from rotograd_cli.runs.config import to_train_config
    from rotograd_cli.runs.resuming import Target, named_run, same_run
    from rotograd_cli.runs.trust import Trust, user_folders

    typed = to_train_config(config)
    if config.resume is None:
        return Target(typed, run_dir, resumed=False)
    if config.resume != "auto":
        trust = Trust(bool(config.trust), user_folders())
        return named_run(str(config.resume), typed, overrides, trust)
    root = Path(typed.paths.output_dir)  # output_dir/data/method/time, unless hydra.run.dir is set
    others = [] if several else [file.parent for file in root.glob("*/*/*/config.yaml")]
    return same_run(typed, run_dir, others)


def _cell(
    run: "Callable[[], RunSummary]", run_dir: "Path", overrides: list[str], hydra_config: Any
) -> "RunSummary":
    """One cell of a sweep: a failure is recorded in its directory and the others go on."""
    import traceback

    from rotograd_cli.commands.sweep import refused
    from rotograd_cli.commands.sweep_folder import is_search
    from rotograd_cli.errors import OccupiedError, RotogradError
    from rotograd_cli.runs.directory import record_failure
    from rotograd_cli.runs.messages import describe_failure
    from rotograd_cli.runs.summary import RunSummary

    number = hydra_config.job.num
    if launch.job_rank() == 0:
        print(f"cell {number}: {' '.join(overrides)}", file=sys.stderr)
    try:
        return run()
    except Exception as error:  # whatever it is, the other cells must run
        if launch.job_rank() > 0:
            raise
        if isinstance(error, OccupiedError) and is_search(hydra_config):
            raise Refusal(error) from error  # a sweeper may go on after an exception
        if not isinstance(error, RotogradError):
            traceback.print_exc()
        reason = describe_failure(error)
        print(f"cell {number} failed: {reason}", file=sys.stderr)
        if exit_code(error) != RUN_FAILED:  # else the run has recorded it
            refused[run_dir] = record_failure(run_dir, overrides, reason)
        return RunSummary()


def _evaluate(config: "DictConfig") -> float:
    from rotograd_cli.runs.config import to_evaluate_config

    typed = to_evaluate_config(config)  # before torch is imported: a refusal comes at once
    from rotograd_cli.printing.terminal import print_grid
    from rotograd_cli.runs.evaluation import evaluate_run
    from rotograd_cli.runs.report import evaluation_table, remarks
    from rotograd_cli.runs.trust import user_folders

    found = evaluate_run(typed, user_folders())
    table, verdict = evaluation_table(found.measured, found.recorded, found.other_data)
    if found.other_data is not None:
        print(f"Other data: {found.other_data}.")
    print(f"{os.path.normpath(typed.run)}: {typed.checkpoint}.pt on {typed.split}")
    print_grid(table)
    for line in (verdict, *remarks(found.notes)):
        print(line)
    return found.measured[f"{typed.split}/geomean_loss"]


def _table(config: "DictConfig") -> None:
    from pathlib import Path

    from rotograd_cli.tables.command import table_of_runs, to_table_command
    from rotograd_cli.tables.formats import write_table

    command = to_table_command(config)
    _show_table(table := table_of_runs(command))
    if command.output is not None:
        files = write_table(table, Path(command.output).expanduser())
        print(f"Files: {', '.join(os.path.relpath(file) for file in files)}")


def _reproduce(words: list[str]) -> int:
    """Shows the plan, trains, shows the table; 1 where a cell did not finish."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting
    from rotograd_cli.commands.reproduce.command import Reproduction, parse
    from rotograd_cli.printing.grid import Grid
    from rotograd_cli.printing.terminal import print_grid

    reproduction = Reproduction(parse(words))
    if not reproduction.config.plan:
        reproduction.check()
    print_grid(Grid.of_texts(*reproduction.plan()))
    if reproduction.config.plan:
        return 0
    reproduction.run()
    _show_table(table := reproduction.table())
    files = reproduction.write(table)
    print(f"Files: {', '.join(os.path.relpath(file) for file in files)}")
    failures = reproduction.failures()
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return CELL_FAILED if failures else 0


def _plot(words: list[str]) -> int:
    os.environ["HYDRA_FULL_ERROR"] = "1"
    from rotograd_cli.commands.reproduce.command import parse
    from rotograd_cli.commands.reproduce.figures import plot

    files, notes = plot(parse(words))
    for line in (*notes, f"Files: {', '.join(os.path.relpath(file) for file in files)}"):
        print(line)
    return 0


def _replay(words: list[str]) -> int:
    """Shows the step; 3 where it does not fail as it did, bit for bit."""
    from rotograd_cli.commands.replay import findings, parse, replay, rows
    from rotograd_cli.printing.grid import Grid
    from rotograd_cli.printing.terminal import print_grid

    result = replay(parse(words))
    heads = ("task", "loss in the run", "loss here", "gradient at the features")
    print_grid(Grid.of_texts(heads, rows(result), f"step {result.then.step}: {result.run}"))
    for line in findings(result):
        print(line)
    return 0 if result.exact else OTHER_REPLAY


def _show_table(table: "Table") -> None:
    from rotograd_cli.printing.terminal import print_grid
    from rotograd_cli.tables.layout import grids, sentences

    for grid in grids(table):
        print_grid(grid)
    for line in sentences(table, "(1), bold", "(2), underlined"):
        print(line)


def _bench(config: "DictConfig") -> None:
    import shlex
    from dataclasses import asdict
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    # the profiler's notes on the terminal; both are read when torch is loaded
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from rotograd_cli.bench.report import grid, loading_notes, notes, write
    from rotograd_cli.bench.run import bench
    from rotograd_cli.printing.terminal import print_grid
    from rotograd_cli.runs.config import to_bench_config

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    typed = to_bench_config(config)
    command = " ".join([sys.argv[0], shlex.join(sys.argv[1:])]).strip()
    result = bench(typed, command, lambda line: print(line, file=sys.stderr))
    write(result, asdict(typed), run_dir)
    print_grid(grid(result))
    print(notes(result))
    if result["loading"] is not None:
        print(loading_notes(result))
    print(f"Bench directory: {os.path.relpath(run_dir)}")


def _sweep_failures(*more: str) -> int:
    module = sys.modules.get("rotograd_cli.commands.sweep")
    failures: list[str] = getattr(module, "failures", [])
    found = [*failures, *more]
    failures.clear()  # a program may call main again
    for failure in found:
        print(f"failed: {failure}", file=sys.stderr)
    return CELL_FAILED if found else 0


def _remove_unused_folders() -> None:
    module = sys.modules.get(
        "rotograd_cli.commands.sweep"
    )  # absent, or half imported: no folder was made
    remove = getattr(module, "remove_unused_folders", None)
    if remove is not None:
        remove()


def _checked_words(command: str, words: list[str]) -> list[str]:
    """Hydra's own options, checked (its parser would print a page of usage) and put in front."""
    from pathlib import Path

    from hydra._internal.utils import get_args_parser

    from rotograd_cli.errors import ConfigError
    from rotograd_cli.runs.config import check_added_keys, config_dir

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; rotograd {command} --help shows the options.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    options = parser.parse_intermixed_args(words)  # Hydra's own call refuses seed=1 -m lr=1,2
    if options.multirun and (options.cfg or options.info):
        raise ConfigError(
            "-m cannot be combined with --cfg or --info; leave -m out to see one cell."
        )
    if options.multirun and command in _SINGLE:
        raise ConfigError(
            f"rotograd {command} {_SINGLE[command]} at a time, got -m; leave -m out and run it "
            "once for each."
        )
    for word in options.overrides:
        group, _, value = word.partition("=")
        if value.startswith("[") and (config_dir() / group.split("@")[0]).is_dir():
            names = value.strip("[]")
            raise ConfigError(
                f"`{group}` takes one file, got {value!r}; -m {group}={names} runs each."
            )
    if options.multirun and command == "train":
        folders = [Path(options.config_dir)] if options.config_dir else []
        check_added_keys(options.overrides, folders)
    if options.experimental_rerun:
        raise ConfigError("--experimental-rerun is not supported; give the run's overrides again.")
    if options.config_path or options.config_name:
        raise ConfigError(
            "--config-path and --config-name cannot replace the built-in configuration; "
            "add your own files with --config-dir."
        )
    flags = words.copy()
    for word in options.overrides:
        flags.remove(word)
    return [*flags, *options.overrides]


def _complete(words: list[str]) -> int:
    """Shell completion: commands first, then Hydra's completion of the command's overrides."""
    line = os.environ.get("COMP_LINE", "")
    program, *given = line.split(" ") if line else ("rotograd",)
    if line and len(given) <= 1:
        return _print("\n".join(name for name in COMMANDS if name.startswith("".join(given))))
    command = given[0] if given and given[0] in COMMANDS else "train"
    os.environ["COMP_LINE"] = " ".join([program, *given[1:]])
    if "COMP_POINT" in os.environ:
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    with suppress(Exception):  # half a word is no mistake: nothing to suggest, nothing to say
        _run_hydra(command, words, program="rotograd")
    return 0


def _help() -> str:
    commands = "\n".join(f"  {name:10s} {text}" for name, text in COMMANDS.items())
    return f"""rotograd: train and compare RotoGrad and its rivals from YAML.

usage: rotograd COMMAND [KEY=VALUE ...] [Hydra's options]

commands:
{commands}

examples:
  rotograd train                                      RotoGrad on embedded real digits
  rotograd train method=rotogradnorm seed=1           another method, another seed
  rotograd train -m method=vanilla,rotograd seed=0,1  a sweep: every combination
  rotograd train --cfg job                            the composed configuration
  rotograd evaluate run=outputs/...                   metrics of a finished run
  rotograd data check celeba                          are the files there? where to get them
  rotograd table runs='multirun/*' output=DIR         a table of finished runs, and its files
  rotograd reproduce table=multimnist plan=true       what the paper's table would take
  rotograd bench workload=lenet                       what a step costs, beside plain autograd

options: -h, --help; --version. rotograd COMMAND --help lists what can be set.
Exit codes: 0 done, 1 a cell of a sweep failed, 2 wrong input, 3 a replayed step came out in another
way, 4 the run failed after it had begun, 128 + number of the signal that stopped it.
Completion: eval "$(rotograd -sc install=bash)\""""


def _command_help(command: str, words: Sequence[str]) -> str:
    if command == "evaluate":
        return (
            "usage: rotograd evaluate run=DIR [split=train|val|test] [checkpoint=best|last] "
            "[device=...] [data_dir=...] [trust=true] [--config-dir DIR]\n\n"
            "Loads a checkpoint and prints its metrics beside those that the run recorded.\n"
            "A run with components of your own needs the folder of your YAML files that name "
            "them, or trust=true."
        )
    if command == "bench":
        return _bench_help(words)
    if command == "table":
        return _table_help(words)
    if command == "data":
        return _DATA_HELP
    if command == "reproduce":
        return _reproduce_help(words)
    if command == "plot":
        return _plot_help(words)
    if command == "replay":
        return _REPLAY_HELP
    return f"""usage: rotograd train [GROUP=NAME ...] [KEY=VALUE ...] [-m] [--cfg job]

groups:
{_group_lines(words, (*GROUPS, "launcher", "sweep"))}
  optimizer@model_optimizer, optimizer@method_optimizer, scheduler@model_scheduler and
  scheduler@method_scheduler choose for the network and for the method's own parameters

keys, with examples (rotograd train --cfg job prints all of them with their values):
  resume=DIR|auto goes on with a run; trust=true lets a run from somebody else name any component
  seed=0  device=auto|cpu|cuda|cuda:i  deterministic=true  tasks=[left,right]  tags=[...]
  train.epochs  train.batch_size  train.accumulate_steps  train.grad_clip_norm
  train.limit_batches  train.select  model_optimizer.lr  method_optimizer.lr
  method.rotation_shape  method.burn_in_period  method.init  backbone.num_features
  paths.data_dir  paths.output_dir  logger.mode=online|offline|disabled

-m            sweep: comma-separated values, every combination in its own directory; launcher= says
              where the runs go (docs/sweeps.md), sweep=optuna searches instead of combining
--cfg job     print the composed configuration and stop
--config-dir  a folder of your own YAML files, laid out as the built-in ones: DIR/method/foo.yaml"""


def _table_help(words: Sequence[str]) -> str:
    return f"""usage: rotograd table runs=GLOB [table=NAME] [KEY=VALUE ...]

Builds a table of runs that are there, without training: a row per method, statistics over seeds,
gains against single-task networks, paired comparisons, and with table=NAME a paper's own numbers.

{_group_lines(words, ("table",))}

runs=GLOB        run directories, or folders that hold them at any depth: runs='multirun/*'
table=NAME       its rows and columns, and the printed numbers; without it a row per setting
statistic=...    median_std | mean_std | mean_ci95
seeds=5          seeds 0 to 4; seeds=[0,3] these two; all that are there by default
methods=[...]    rows to show
output=DIR       writes table.md, table.tex, table.csv and table.json there
--config-dir     a folder of your own YAML files: DIR/table/mine.yaml

docs/tables.md says what the marks, statistics and gains mean."""


def _reproduce_help(words: Sequence[str]) -> str:
    return f"""usage: rotograd reproduce table=NAME [seeds=N] [methods=[...]] [KEY=VALUE ...]

Plans the runs of a paper's table, trains those that are not there yet, chooses learning rates on
validation, and prints the table beside the printed numbers. Stop it at any time: the same command
goes on, and trains only what is missing. A changed setting is another run.

{_group_lines(words, ("table",))}

table=NAME       rows, columns, seeds, grid of learning rates, printed numbers
seeds=5          seeds 0 to 4; seeds=[0,3] these two; the table's by default
methods=[...]    rows to train and show; single-task networks are added where gains need them
statistic=...    median_std | mean_std | mean_ci95
plan=true        show the plan with its estimate, and train nothing
output=DIR       folder of table.md, .tex, .csv, .json and grid.csv
table.grid=null  every row with its own defaults instead of the best of the grid
launcher=local   several runs at once; hydra/launcher=... takes any of Hydra's (docs/sweeps.md)
KEY=VALUE        any other override of rotograd train is for all runs: train.epochs=2 device=cuda
--config-dir     a folder of your own YAML files: DIR/table/mine.yaml

examples:
  rotograd reproduce table=multimnist plan=true
  rotograd reproduce table=multimnist seeds=5 methods=[vanilla,rotograd] launcher=local"""


def _plot_help(words: Sequence[str]) -> str:
    return f"""usage: rotograd plot figure=NAME [KEY=VALUE ...]

Draws a figure of a table's runs as PNG and PDF; rotograd reproduce trains them.

{_group_lines(words, ("figure", "table"))}

figure=rotation_lr   the paper's figure 3: RotoGrad's learning rate against the sum task's error
figure=gains         gains of every task against single-task networks, a bar per method
table=NAME           another table than the figure's own
output=DIR           folder of the files; that of the table's by default
KEY=VALUE            as for rotograd reproduce: seeds=5, and what the runs were trained with"""


def _bench_help(words: Sequence[str]) -> str:
    return f"""usage: rotograd bench [workload=NAME] [GROUP=NAME ...] [KEY=VALUE ...] [--cfg job]

Times a training step of the configured networks: plain autograd on the summed losses (ideal), the
methods, and the authors' package where it is installed (pip install rotograd==0.1.6.0), in blocks
that are interleaved in random order, on identical networks, batches and rotations. Everything that
rotograd train takes can be set; a method.KEY=VALUE holds for every contender that has the key.

groups:
{_group_lines(words, ("workload", *GROUPS))}

keys, with examples (rotograd bench --cfg job prints all of them with their values):
  bench.contenders=[ideal,vanilla,rotograd,reference]  ideal, reference and names of methods
  bench.rounds=15  bench.block_s=0.3  bench.max_steps_per_block=100  bench.warmup_steps=5
  bench.loading_batches=4|null  bench.threads=2  bench.dtype=float32|float64|bfloat16
  compile=true
  bench.rotation_norm=0.5  bench.optimizers=true  bench.name=mine
  device=auto|cpu|cuda|cuda:i  data.num_tasks=5  method.rotation_shape=256
  backbone.num_features=512  train.batch_size=1024  seed=0

examples:
  rotograd bench workload=linear40 backbone.num_features=2048
  rotograd bench experiment=multimnist device=cuda bench.dtype=bfloat16
  rotograd bench --config-dir DIR data=mine backbone=mine

Prints a table; bench.json, bench.md and config.yaml go to outputs/bench/<name>/<time>/."""


def _group_lines(words: Sequence[str], groups: Sequence[str] = GROUPS) -> str:
    from pathlib import Path

    package = Path(__file__).resolve().parent
    own = next(c for c in (package / "conf", package.parent / "conf") if c.is_dir())
    folders = [own, *config_dirs(words)]
    lines = []
    for group in groups:
        names = sorted({path.stem for f in folders for path in (f / group).glob("*.yaml")})
        lines.append(f"  {group:12s} {' | '.join(names)}")
    return "\n".join(lines)


def _version() -> str:
    from rotograd_cli import __version__

    return f"rotograd-cli {__version__}"


def _suggest_command(command: str) -> str:
    if "=" in command or command.startswith("-"):
        return f"put it after a command: rotograd train {command}"
    matches = difflib.get_close_matches(command, COMMANDS, n=1)
    return f"did you mean {matches[0]}?" if matches else f"choose from {', '.join(COMMANDS)}."


def _print(text: str) -> int:
    print(text)
    return 0


def _fail(message: str, code: int = WRONG_INPUT) -> int:
    launch.say_failure(f"rotograd: {one_line(message)}")
    return code
