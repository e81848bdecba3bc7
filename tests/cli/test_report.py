"""The report in a real browser, and what the command refuses."""

import html
import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from .conftest import Cli

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (chromium) on PATH")

# Runs in the page: notes errors from the beginning, then moves the slider and says what it saw.
FIRST = """<script>
const seen = { errors: [] };
const note = (...words) => seen.errors.push(words.join(" "));
addEventListener("error", (event) => note(event.message));
addEventListener("unhandledrejection", (event) => note(event.reason));
console.error = console.warn = note;
</script>"""
LAST = """<script type="module">
const page = document.documentElement;
const ready = (go) => page.dataset.ready ? go() : setTimeout(ready, 50, go);
await new Promise(ready);
const texts = () => [...document.querySelectorAll('[data-matrix="after"] svg text')];
const cells = () => texts().map((element) => element.textContent).join(" ");
const slider = document.getElementById("frame");
if (slider) {
  seen.atEnd = cells();
  slider.value = 0;
  slider.dispatchEvent(new Event("input"));
  await new Promise((go) => setTimeout(go, 300));
  seen.atStart = cells();
}
seen.charts = document.querySelectorAll("[data-chart]").length;
seen.drawn = document.querySelectorAll("[data-chart] svg").length;
seen.pictures = [...document.images].filter((image) => image.naturalWidth > 0).length;
seen.overflow = document.documentElement.scrollWidth - innerWidth;
seen.width = innerWidth;
seen.paper = getComputedStyle(document.body).backgroundColor;
const result = document.createElement("pre");
result.id = "seen";
result.textContent = JSON.stringify(seen);
document.body.append(result);
</script>"""


def opened(page: Path, width: int, *, dark: bool = False) -> dict[str, Any]:
    """What a browser without a network saw of a page."""
    head, _, body = page.read_text(encoding="utf-8").partition("<head>")
    body, _, end = body.rpartition("</body>")
    probe = page.with_name("probe.html")
    probe.write_text(f"{head}<head>{FIRST}{body}{LAST}</body>{end}", encoding="utf-8")
    assert BROWSER is not None
    options = {
        "host-resolver-rules": "MAP * ~NOTFOUND",
        "window-size": f"{width},900",
        "virtual-time-budget": "20000",
        "blink-settings": f"preferredColorScheme={0 if dark else 1}",
        "user-data-dir": str(page.parent / "profile"),
    }
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--{name}={value}" for name, value in options.items()]
    command.append(probe.resolve().as_uri())
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="seen">(.*?)</pre>', result.stdout, re.DOTALL)
    assert found is not None, result.stderr
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


def add_cosines(run_dir: Path) -> None:
    """Cosines that grow over the records of a run, in place of its own."""
    tasks = json.loads((run_dir / "summary.json").read_text())["tasks"]
    path = run_dir / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    num = 0
    for record in records:
        if any(key.startswith("train/") for key in record):
            for a, b in combinations(tasks, 2):
                record[f"train/{a}/{b}/cosine_before"] = -0.25
                record[f"train/{a}/{b}/cosine"] = 0.25 + 0.5 * num
            record["train/conflict/rate"] = 0.0
            num += 1
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


@pytest.mark.slow
@needs_browser
def test_the_page_of_a_run_works_in_a_browser_without_a_network(cli: Cli, tmp_path: Path) -> None:
    words = ("debug=smoke", "logger=none", "method=rotograd", "train.log_every_steps=1")
    assert cli("train", *words, "hydra.run.dir=run").code == 0
    add_cosines(tmp_path / "run")
    result = cli("report", "run=run", "limit=50", "examples=4")
    assert result.code == 0, result.err
    assert "report.html" in result.out
    page = tmp_path / "run" / "report.html"
    assert page.stat().st_size < 2e6
    papers = set()
    for width, dark in ((500, False), (1600, False), (1600, True)):
        seen = opened(page, width, dark=dark)
        assert seen["errors"] == []
        assert seen["charts"] == seen["drawn"] > 10
        assert seen["pictures"] == 4
        assert "0.25" in seen["atStart"]
        assert "0.75" not in seen["atStart"]
        assert "0.75" in seen["atEnd"]
        assert seen["overflow"] <= 0
        papers.add(seen["paper"])
    assert len(papers) == 2  # light and dark


@pytest.mark.slow
@needs_browser
def test_the_page_of_several_runs_works_in_a_browser(cli: Cli, tmp_path: Path) -> None:
    words = ("debug=smoke", "logger=none", "seed=0,1", "method=vanilla,rotograd")
    assert cli("train", "-m", *words, "hydra.sweep.dir=sweep").code == 0
    result = cli("report", "runs=sweep/*", "output=pages/all.html")
    assert result.code == 0, result.err
    seen = opened(tmp_path / "pages" / "all.html", 1600)
    assert seen["errors"] == []
    assert seen["charts"] == seen["drawn"] > 5


def test_wrong_input_is_one_line_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for words, message in (
        ((), "needs either run=DIR or runs=GLOB, got neither"),
        (
            ("run=none",),
            "`run` must name run directories or folders that hold them, got 'none'",
        ),
        (("run=folder",), "without a run below them"),
        (("run=a", "runs=b"), "got both"),
        (("run=folder", "split=tset"), "`split` must be"),
        (("run=folder", "examples=-1"), "`examples` must be at least 0, got -1"),
    ):
        result = cli("report", *words)
        assert result.code == 2
        assert message in result.err, result.err
        assert result.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_strangers_run_gets_a_page_without_its_code_being_run(cli: Cli, smoke_run: Path) -> None:
    config = (smoke_run / "config.yaml").read_text()
    changed = re.sub(r"_target_: \S*MultiDigits", "_target_: antigravity.Data", config)
    assert changed != config
    (smoke_run / "config.yaml").write_text(changed)
    result = cli("report", f"run={smoke_run}")
    assert result.code == 0, result.err
    page = (smoke_run / "report.html").read_text(encoding="utf-8")
    assert "Predictions are not shown: `data._target_` in" in page
    assert "trust=true to run it anyway" in page
