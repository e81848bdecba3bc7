"""Imports point one way: the graph is read from the source, lazy imports included."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import rotograd_cli

ROOT = Path(rotograd_cli.__file__).parent
PACKAGE = "rotograd_cli"

DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"

# Low to high, as documented. A unit is a module or a folder; units of one layer never import each
# other.
(LINE,) = re.findall("^errors, .* → cli$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
LAYERS = [["__init__"], *(layer.split(", ") for layer in LINE.split(" → ")), ["__main__"]]
TORCHJD = ("alignedmtl", "imtlg", "nashmtl", "pcgrad", "upgrad")
USERS = {
    "wandb": {"tracking.wandb"},
    "timm": {"models.backbones.timm_models"},
    "safetensors": {"runs.initial_weights"},
    "rich": {"printing.grid", "tracking.console"},
    "torchjd": {f"methods.{name}" for name in TORCHJD},
    "matplotlib": {"figures.canvas"},
    "onnxruntime": {"runs.export_formats"},
    "onnxscript": {"runs.export_formats"},
    "altair": {"report.charts"},
    "vl_convert": {"report.page"},
    "geotorch": {"methods.rotation.rotations"},
    "pandas": {"runs.loading"},
    "pyarrow": {"runs.prediction_parquet"},
    "pydantic": {"config.components", "runs.summary", "tracking.jsonl"},
}
LEVEL = {unit: level for level, layer in enumerate(LAYERS) for unit in layer}


@cache
def modules() -> dict[str, ast.Module]:
    """Syntax tree of every module by dotted name below the package; a folder's is its own name."""
    result = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if len(parts) > 1 and parts[-1] == "__init__":
            parts.pop()
        result[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return result


@cache  # a tree is itself alone
def imported(tree: ast.Module) -> set[str]:
    """Dotted names of everything that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def own_imports(tree: ast.Module) -> set[str]:
    """Modules of this package that a module imports, as named in :func:`modules`."""
    result = set()
    for name in imported(tree):
        if name.split(".")[0] == PACKAGE:
            parts = name.split(".")[1:]
            while parts and ".".join(parts) not in modules():
                parts.pop()  # a name inside the module
            result.add(".".join(parts) or "__init__")
    return result


def unit(module: str) -> str:
    return module.split(".")[0]


def test_every_module_has_a_layer() -> None:
    assert {unit(module) for module in modules()} == set(LEVEL)


def test_module_imports_lower_layers_alone() -> None:
    for module, tree in modules().items():
        for other in own_imports(tree):
            same = unit(module) == unit(other)
            lower = LEVEL[unit(other)] < LEVEL[unit(module)]
            assert same or lower, f"{module} imports {other}"


def test_linalg_knows_errors_alone() -> None:
    for module, tree in modules().items():
        if unit(module) == "linalg":
            assert {unit(other) for other in own_imports(tree)} <= {"errors", "linalg"}, module


# rooms of methods/, low to high
ROOMS = ("methods.rotation", "methods.heads", "methods.engine")
# of the modules directly in methods/, those that are networks and not rules
NETWORKS = tuple(f"methods.{x}" for x in ("authors", "distributed", "folding", "rotate", "vanilla"))
# what rules see is measured here, so that they know nothing of ranks
STATISTICS = "methods.statistics"


def room(module: str) -> int:
    """Height of a module's room in methods/; -1 for one that is in none."""
    return next((height for height, name in enumerate(ROOMS) if module.startswith(name)), -1)


def test_rooms_of_methods_import_lower_rooms_and_rules_alone() -> None:
    for module, tree in modules().items():
        for other in own_imports(tree):
            if room(module) >= 0 and unit(other) == "methods":
                lower = room(other) in range(room(module) + 1)
                shared = ("methods.rule", "methods.parts", "methods.initial_values", STATISTICS)
                assert lower or other in shared, module


def test_a_rule_knows_neither_engine_nor_ranks() -> None:
    for module, tree in modules().items():
        is_rule = module not in (*NETWORKS, STATISTICS) and room(module) < 0
        if module.startswith("methods.") and is_rule:
            for other in own_imports(tree):
                assert not other.startswith(("methods.engine", "ranks")), f"{module}: {other}"


def test_graph_has_no_cycle() -> None:
    graph = {module: own_imports(tree) for module, tree in modules().items()}
    TopologicalSorter(graph).prepare()  # raises with the cycle


def test_package_is_imported_in_its_one_place() -> None:
    for package, users in USERS.items():
        importing = {
            module
            for module, tree in modules().items()
            if any(name.split(".")[0] == package for name in imported(tree))
        }
        assert importing == users, package


def test_mathematics_never_sees_a_configuration() -> None:
    for module, tree in modules().items():
        if unit(module) in ("linalg", "methods", "models", "data", "training"):
            roots = {name.split(".")[0] for name in imported(tree)}
            assert not roots & {"hydra", "omegaconf", "yaml"}, module


def loaded_after(*statements: str) -> list[set[str]]:
    """Top-level modules that a fresh interpreter has after each statement, one after another."""
    show = "import sys; print(*{m.split('.')[0] for m in sys.modules})"
    program = "; ".join(f"{statement}; {show}" for statement in statements)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return [set(line.split()) for line in result.stdout.splitlines()]


def test_command_line_is_imported_without_anything_heavy() -> None:
    heavy = {"torch", "numpy", "hydra", "omegaconf", "wandb", "sklearn", "torchmetrics", "rich"}
    (loaded,) = loaded_after("import rotograd_cli.cli")
    assert loaded & heavy == set()


def test_parts_and_plans_of_a_table_are_imported_without_what_computes_them() -> None:
    statement = "import rotograd_cli.tables.parts, rotograd_cli.commands.reproduction.reproduction"
    (loaded,) = loaded_after(statement)
    assert loaded & {"torch", "numpy", "scipy"} == set()


def test_methods_and_runs_import_no_library_that_they_do_not_use() -> None:
    """Methods know neither Hydra nor the runner; a run what its components use."""
    of_a_run = (
        "import rotograd_cli.runs.experiment, rotograd_cli.data.multidigits as data, "
        "rotograd_cli.models.backbones.lenet, rotograd_cli.models.heads, "
        "rotograd_cli.training.seeding as seeding; "
        "data._load(300, 300, 0); seeding.set_deterministic(False)"
    )
    methods, run = loaded_after("import rotograd_cli.methods", of_a_run)
    heavy = {"hydra", "omegaconf", "wandb", "torchmetrics", "rich", "pydantic"}
    heavy |= {"scipy", "torchjd"}  # rules import them when they are called
    assert methods & heavy == set()
    heavy = {"torchvision", "torchmetrics", "matplotlib", "wandb", "sklearn", "torchjd"}
    heavy |= {"scipy", "pandas"}
    heavy |= {"sympy"}  # torch's compiler imports it; only an optimiser needs that
    assert run & heavy == set()


def test_the_page_names_files_that_exist_and_every_folder() -> None:
    folders = set()
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        first, _, rest = line.removeprefix("|").partition("|")
        (folder,) = re.findall(r"`(\w+(?:/\w+)*)/`", first)[:1] or [""]
        folders.add(folder)
        for file in re.findall(r"`((?:\w+/)*\w+\.py)", rest):
            assert (ROOT / folder / file).is_file() or (ROOT / file).is_file(), line
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms <= folders
