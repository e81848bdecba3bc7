"""Benchmarks: statistics, interleaving, memory, and contenders that compute the same."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose
from torch import Tensor, nn

from rotograd_cli.bench import report
from rotograd_cli.bench.contenders import Builder, Contender, adapted, method_nodes
from rotograd_cli.bench.measure import (
    Block,
    Subject,
    block_steps,
    blocks,
    interleaved_orders,
    num_threads,
    paired_ratios,
    peak_bytes,
    spread,
    step_times,
)
from rotograd_cli.bench.reference import ReferenceUnavailableError, load_reference, rotations
from rotograd_cli.bench.rotations import rotations_of, skew_parameters
from rotograd_cli.config.compose import composing
from rotograd_cli.config.schema import BenchConfig, BenchOptions, to_bench_config
from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError
from rotograd_cli.printing.grid import Grid
from tests.counting import CountOperations
from tests.skews import skew, unpacked

CPU = torch.device("cpu")
SMALL = (
    "bench.name=small",
    "device=cpu",
    "data=synthetic",
    "data.input_shape=[6]",
    "data.num_train=32",
    "data.num_val=2",
    "data.num_test=2",
    "backbone=mlp",
    "backbone.hidden=[9]",
    "backbone.num_features=8",
    "head.hidden=[7]",
    "method.rotation_shape=6",
    "method.alpha=0.7",
    "train.batch_size=16",
    "bench.dtype=float64",
)


# ---- statistics


def test_a_spread_is_median_and_10th_and_90th_percentile() -> None:
    assert spread([7.0]) == {"median": 7.0, "p10": 7.0, "p90": 7.0}
    result = spread([float(x) for x in range(11)])  # 0..10: percentiles fall on values
    assert result == {"median": 5.0, "p10": 1.0, "p90": 9.0}


def test_a_machine_that_slows_down_in_one_round_leaves_the_ratios_alone() -> None:
    slow = {0: 1.0, 1: 5.0, 2: 1.0}
    blocks = [
        *(Block("ideal", i, 0, 10, 10 * 0.2 * slow[i]) for i in range(3)),
        *(Block("mine", i, 1, 4, 4 * 0.3 * slow[i]) for i in range(3)),
    ]
    times = step_times(blocks)
    assert paired_ratios(times["mine"], times["ideal"]) == pytest.approx([1.5, 1.5, 1.5])
    assert times["mine"] == pytest.approx([0.3, 1.5, 0.3])


# ---- measurement


def test_every_round_is_a_permutation_and_the_seed_repeats_it() -> None:
    orders = interleaved_orders(5, 40, seed=3)
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len({tuple(order) for order in orders}) > 20
    assert {order[0] for order in orders} == {0, 1, 2, 3, 4}
    assert interleaved_orders(5, 40, seed=3) == orders
    assert interleaved_orders(5, 40, seed=4) != orders


def test_every_subject_has_one_block_in_every_round_and_is_reset_before_it() -> None:
    steps, resets = {"a": 0, "b": 0}, {"a": 0, "b": 0}

    def subject(name: str) -> Subject:
        def step() -> None:
            steps[name] += 1

        def reset() -> None:
            resets[name] += 1

        return Subject(name, step, reset)

    options = BenchOptions(rounds=6, block_s=1.0, max_steps_per_block=3, warmup_steps=2)
    rounds: list[int] = []
    result = blocks([subject("a"), subject("b")], options, 0, CPU, rounds.append)
    assert rounds == [1, 2, 3, 4, 5, 6]
    assert [(b.round, b.position) for b in result] == [(i, j) for i in range(6) for j in (0, 1)]
    for name in "ab":
        own = [block for block in result if block.subject == name]
        assert [block.round for block in own] == list(range(6))
        assert {block.steps for block in own} == {3}
        assert all(block.seconds > 0 for block in own)
        assert steps[name] == 2 + sum(block.steps for block in own)
        assert resets[name] == 1 + 6


@pytest.mark.parametrize(
    ("step_s", "block_s", "limit", "expected"),
    [(0.1, 1.05, None, 10), (0.1, 1.05, 4, 4), (3.0, 1.0, 4, 1), (0.1, 0.0, None, 1)],
)
def test_a_block_has_at_least_one_step_and_at_most_the_limit(
    step_s: float, block_s: float, limit: int | None, expected: int
) -> None:
    options = BenchOptions(block_s=block_s, max_steps_per_block=limit)
    assert block_steps(step_s, options) == expected


def test_the_peak_is_what_is_held_at_once_beyond_what_was_held_before() -> None:
    kept = torch.zeros(10**6)

    def step() -> None:
        a = torch.empty(1000, 1000)  # 4 MB
        b = torch.empty(500, 1000)  # 2 MB, together 6
        del a
        c = torch.empty(250, 1000)  # 1 MB, together 3
        del b, c

    assert peak_bytes(step, CPU) == 6_000_000
    assert peak_bytes(lambda: None, CPU) == 0
    assert kept.numel() == 10**6


def test_the_peak_includes_the_backward_pass() -> None:
    w = torch.randn(500, 500, requires_grad=True)
    held: list[Tensor] = []

    def step() -> None:
        y = w * w  # 1 MB, needed by the second product
        held.append((y * y).sum())
        held.pop().backward()
        w.grad = None

    # at least y, the gradient of y and the gradient of w at the same time
    assert 3_000_000 <= peak_bytes(step, CPU) <= 6_000_000


def test_the_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    with num_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with num_threads(None):
        assert torch.get_num_threads() == before


# ---- preparation


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("size", [2, 3, 16])
def test_prepared_skew_matrices_have_the_norm_asked_for(size: int, gaussian: bool) -> None:
    X = skew_parameters(4, size, 0.5, 1, gaussian=gaussian)
    norms = torch.linalg.matrix_norm(skew(X), ord=2)
    torch.testing.assert_close(norms, torch.full_like(norms, 0.5), rtol=1e-12, atol=0)
    assert torch.equal(X, X.tril(-1))
    assert torch.equal(X, skew_parameters(4, size, 0.5, 1, gaussian=gaussian))
    if size > 3:
        assert len({tuple(matrix.flatten().tolist()) for matrix in X}) == 4


def test_gaussian_matrices_turn_all_planes_and_trained_ones_a_few() -> None:
    # Frobenius norm over sqrt(2) spectral norms: sqrt(1 + 1/4 + ... + 4^-7) for halving angles, and
    # sqrt(m / 8) for large Gaussian matrices, whose spectral norm is 2 sqrt(m) times an entry's
    for gaussian, expected, tolerance in ((False, (4 / 3) ** 0.5, 1e-4), (True, 16**0.5, 0.1)):
        X = skew_parameters(1, 128, 2.0, 0, gaussian=gaussian)
        ratio = torch.linalg.matrix_norm(skew(X)).item() / 2**0.5 / 2.0
        assert ratio == pytest.approx(expected, rel=tolerance)


def test_no_norm_and_no_plane_leave_zero() -> None:
    for gaussian in (False, True):
        assert not skew_parameters(2, 5, 0.0, 0, gaussian=gaussian).any()
        assert not skew_parameters(2, 1, 0.5, 0, gaussian=gaussian).any()


# ---- contenders


@pytest.fixture
def hydra_running() -> Iterator[None]:
    with composing():
        yield


def composed(*overrides: str) -> BenchConfig:
    return to_bench_config(compose("bench", overrides=[*SMALL, *overrides]))


def contenders(*overrides: str) -> tuple[dict[str, Contender], Batch]:
    config = composed(*overrides)
    builder = Builder(config)
    built = {name: builder.build(name) for name in config.bench.contenders}
    batch = builder.networks.dataset.batch("train", torch.arange(16))
    return built, Batch(batch.inputs.double(), batch.targets)


def backbone_gradient(contender: Contender, batch: Batch) -> Tensor:
    contender.take(batch)
    gradients = [p.grad for p in contender.model.backbone.parameters()]
    return torch.cat([g.flatten() for g in gradients if g is not None])


@pytest.mark.usefixtures("hydra_running")
def test_contenders_compute_what_they_should() -> None:
    built, batch = contenders()
    gradients = {name: backbone_gradient(c, batch) for name, c in built.items()}
    num = sum(p.numel() for p in built["ideal"].model.backbone.parameters())
    assert {gradient.numel() for gradient in gradients.values()} == {num}
    torch.testing.assert_close(gradients["vanilla"], gradients["ideal"], rtol=1e-12, atol=1e-15)
    # same networks, same rotations: the authors' package and ours agree (its unbatched exponential
    # is wrong by up to 1e-9 in float64)
    torch.testing.assert_close(
        gradients["rotogradnorm"], gradients["reference"], rtol=1e-6, atol=1e-9
    )
    assert not torch.allclose(gradients["rotograd"], gradients["ideal"], rtol=1e-3)


@pytest.mark.usefixtures("hydra_running")
def test_steps_with_optimizers_are_those_of_training() -> None:
    """Vanilla's step through the real training step, and two plain loops, end at one place."""
    words = ("bench.contenders=[ideal,bare,vanilla]", "bench.optimizers=true", "head.hidden=[]")
    built, batch = contenders(*words, "model_optimizer.lr=0.1")
    starts = [p.detach().clone() for p in built["vanilla"].model.parameters()]
    ends = {}
    for name, contender in built.items():
        for _ in range(3):
            contender.step(batch)
        ends[name] = list(contender.model.parameters())
    for name in ("bare", "vanilla"):
        torch.testing.assert_close(ends[name], ends["ideal"], rtol=1e-10, atol=1e-12)
    assert not any(map(torch.equal, starts, ends["vanilla"]))


@pytest.mark.usefixtures("hydra_running")
def test_the_ideal_starts_no_more_operations_with_more_equal_heads() -> None:
    """Equal heads are one product and their losses one call; a plain loop has them one by one."""
    numbers: dict[str, list[int]] = {"ideal": [], "bare": []}
    binary = ("head.hidden=[]", "data.kind=binary", "data.num_outputs=1")
    for num_tasks in (2, 8):
        words = (*binary, f"data.num_tasks={num_tasks}", "bench.contenders=[ideal,bare]")
        built, batch = contenders(*words)
        for name, contender in built.items():
            contender.step(batch)
            with CountOperations() as counted:
                contender.step(batch)
            numbers[name].append(counted.num)
    ideal, bare = (many - few for few, many in numbers.values())
    assert ideal <= 6 * 6, numbers
    assert bare > 6 * 25, numbers


@pytest.mark.usefixtures("hydra_running")
def test_ours_and_the_reference_have_the_same_rotations_of_the_norm_asked_for() -> None:
    built, batch = contenders("bench.rotation_norm=0.3", "bench.optimizers=true")
    for contender in built.values():
        contender.step(batch)  # the optimisers move the rotations
        contender.reset()
    ours = [rotations_of(built[name].model)[0] for name in ("rotateonly", "rotograd")]
    X, R = ours[0].free_parameters.detach(), ours[0].matrices.detach()
    norms = torch.linalg.matrix_norm(skew(unpacked(X)), ord=2)
    torch.testing.assert_close(norms, torch.full_like(norms, 0.3), rtol=1e-12, atol=0)
    assert torch.equal(ours[1].matrices, R)
    bases, free = rotations(built["reference"].model)
    norms = torch.stack([torch.linalg.matrix_norm(skew(x.detach()), ord=2) for x in free])
    torch.testing.assert_close(norms, torch.full_like(norms, 0.3), rtol=1e-12, atol=0)
    assert torch.equal(torch.stack(bases), ours[0].base)


@pytest.mark.usefixtures("hydra_running")
def test_a_step_clears_the_gradients_and_only_optimisers_move_parameters() -> None:
    for optimizers in (False, True):
        built, batch = contenders(f"bench.optimizers={str(optimizers).lower()}")
        for contender in built.values():
            before = [p.detach().clone() for p in contender.model.backbone.parameters()]
            contender.step(batch)
            after = list(contender.model.backbone.parameters())
            assert all(p.grad is None for p in after)
            moved = any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))
            assert moved == optimizers, contender.name


@pytest.mark.usefixtures("hydra_running")
@pytest.mark.parametrize("method", ["vanilla", "rotateonly", "rotograd"])
def test_the_reference_is_the_authors_class_of_the_configured_method(method: str) -> None:
    config = to_bench_config(
        compose("bench", overrides=[w for w in SMALL if "method." not in w] + [f"method={method}"])
    )
    builder = Builder(config)
    contender = builder.build("reference")
    assert contender.label.startswith(f"{type(builder.configured).__name__} of rotograd")
    batch = builder.networks.dataset.batch("train", torch.arange(16))
    contender.step(Batch(batch.inputs.double(), batch.targets))


@pytest.mark.usefixtures("hydra_running")
def test_methods_take_over_the_options_of_the_configured_one() -> None:
    nodes = method_nodes(composed("method.burn_in_period=3"))
    assert {nodes[n]["rotation_shape"] for n in ("rotateonly", "rotograd", "rotogradnorm")} == {6}
    assert nodes["rotograd"]["burn_in_period"] == 3
    assert nodes["rotograd"]["_target_"].endswith("RotoGrad")
    assert "alpha" not in nodes["rotograd"]
    assert set(nodes["vanilla"]) == {"_target_", "_label_", "_partial_"}


def test_a_node_of_the_same_target_is_the_configured_one() -> None:
    configured = {"_target_": "a.B", "size": 3, "extra": 1}
    assert adapted({"_target_": "a.B", "size": 2}, configured) is configured
    assert adapted({"_target_": "a.C", "size": 2, "own": 5}, configured) == {
        "_target_": "a.C",
        "size": 3,
        "own": 5,
    }


@pytest.mark.usefixtures("hydra_running")
def test_options_out_of_range_are_refused_by_their_key() -> None:
    for word in (
        "bench.contenders=[]",
        "bench.contenders=[ideal,ideal]",
        "bench.rounds=0",
        "bench.warmup_steps=0",
        "bench.max_steps_per_block=0",
        "bench.threads=0",
        "bench.block_s=-1",
        "bench.rotation_norm=nan",
        "bench.dtype=float8",
        "bench.name=",
    ):
        key, _, value = word.partition("=")
        with pytest.raises(ConfigError, match=f"`{key}` must") as caught:
            composed(word)
        assert "\n" not in str(caught.value), value


# ---- the authors' package


def test_the_stand_in_for_the_dropped_module_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "geotorch.parametrize", raising=False)
    assert load_reference().RotoGrad.__name__ == "RotoGrad"
    assert "geotorch.parametrize" not in sys.modules


def test_a_missing_package_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rotograd", None)  # as if it were not installed
    with pytest.raises(ReferenceUnavailableError, match=r"pip install rotograd==0\.1\.6\.0"):
        load_reference()


# ---- report


def result(**changes: Any) -> dict[str, Any]:
    three = {"median": 2.0, "p10": 1.5, "p90": 2.5}
    contender = {
        "name": "rotograd",
        "label": "RotoGrad",
        "ratio": three,
        "step_ms": three,
        "rotation_part_ms": None,
        "peak_bytes": 3 * 2**20,
        "peak_over_base_bytes": 2**20,
        "peak_over_base_stacks": 4.0,
    }
    settings = {
        "data": "toy",
        "backbone": "MLP",
        "head": "MLPHead",
        "method": "RotoGrad",
        "device": "cpu",
        "K": 2,
        "N": 16,
        "feature_shape": [8],
        "m": 6,
        "rotation_stack_bytes": 2**18,
        "seed": 0,
        "rounds": 3,
        "block_s": 0.5,
        "dtype": "float32",
        "compile": False,
        "rotation_norm": 0.5,
        "gaussian_rotations": False,
        "optimizers": False,
    }
    return {
        "name": "toy",
        "command": "rotograd bench workload=toy",
        "date": "2026-01-02T03:04:05+00:00",
        "settings": settings,
        "base": "ideal",
        "machine": report.describe_machine(CPU),
        "contenders": [{**contender, **changes}],
        "left_out": {"reference": "not installed"},
        "blocks": [],
    }


def texts(grid: Grid) -> list[list[str]]:
    return [[entry.text for entry in row] for row in grid.rows]


def test_the_table_begins_with_the_ratio() -> None:
    grid = report.grid(result())
    assert grid.heads[:2] == ["contender", "x ideal"]
    assert texts(grid) == [
        ["rotograd", "2.00", "1.50-2.50", "2", "1.5-2.5", "3.0", "+1.0", "+4.0"],
    ]


def test_without_the_ideal_there_are_no_ratios() -> None:
    nothing = dict.fromkeys(("ratio", "peak_over_base_bytes", "peak_over_base_stacks"), None)
    assert texts(report.grid(result(**nothing))) == [
        ["rotograd", "-", "-", "2", "1.5-2.5", "3.0", "-", "-"]
    ]


def test_the_rotation_part_has_a_column_where_there_is_one() -> None:
    grid = report.grid(result(rotation_part_ms={"median": 0.25, "p10": 0.2, "p90": 0.3}))
    assert (grid.heads[-1], texts(grid)[0][-1]) == ("rotation part ms", "0.25")


def test_the_markdown_stands_alone() -> None:
    text = report.markdown(result())
    assert text.startswith("## toy: K = 2, N = 16, d = 8, m = 6, float32, |A| = 0.5, cpu\n")
    for word in (
        "rotograd bench workload=toy",
        "2026-01-02",
        f"torch {torch.__version__.split('+')[0]}",
        report.cpu_model(),
        "| rotograd | 2.00 | 1.50-2.50 |",
        "0.25 MiB",
        "Left out: `reference` (not installed).",
    ):
        assert word in text, text


def test_the_name_of_the_processor_is_read_or_guessed(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor: 0\nmodel name\t: Fast One\nmodel name\t: Other\n")
    assert report.cpu_model(tmp_path / "cpuinfo") == "Fast One"
    assert report.cpu_model(tmp_path / "nowhere") != ""


# ---- compilation


@pytest.mark.slow
@pytest.mark.usefixtures("hydra_running")
@pytest.mark.filterwarnings("default")
def test_compiled_contenders_compute_the_same() -> None:
    plain, batch = contenders()
    compiled, _ = contenders("compile=true")
    for name, contender in compiled.items():
        assert any(
            isinstance(m, nn.Module) and m._compiled_call_impl is not None
            for m in contender.model.backbone.modules()
        )
        torch.testing.assert_close(
            backbone_gradient(contender, batch),
            backbone_gradient(plain[name], batch),
            rtol=1e-9,
            atol=1e-12,
        )
