"""Stand-ins for SLURM's commands: a job array runs on this machine, one task after the other."""

import os
import sys
from pathlib import Path

SBATCH = """#!{python}
import os, re, subprocess, sys
from pathlib import Path

script = Path(sys.argv[1])
state = Path(os.environ["FAKE_SLURM"])
(state / "submitted.sh").write_text(script.read_text())
array = re.search(r"--array=0-(\\d+)", script.read_text())
tasks = range(int(array.group(1)) + 1) if array else [None]
body = "wait_for_it=1; sleep 1\\n"  # the submitting process puts the jobs' input there first
for task in tasks:
    name = "4711" if task is None else f"4711_{{task}}"
    settings = {{"SLURM_JOB_ID": str(4711 + (task or 0)), "FAKE_NAME": name}}
    if task is not None:
        settings |= {{"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": str(task)}}
    pairs = " ".join(f"{{key}}={{value}}" for key, value in settings.items())
    fail = os.environ.get("FAKE_SLURM_FAIL", "")
    command = "false" if fail == name else f"env {{pairs}} bash {{script}}"
    body += f"if {{command}}; then s=COMPLETED; else s=TIMEOUT; fi; echo $s > {{state}}/{{name}}\\n"
log = (state / "log").open("w")
subprocess.Popen(["bash", "-c", body], stdout=log, stderr=log, start_new_session=True)
print("Submitted batch job 4711")
"""
# --output and --error are where submitit expects the job's words
SRUN = """#!{python}
import os, sys

words = sys.argv[1:]
command = words[words.index("{python}"):]
os.environ |= {{"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0"}}
os.environ |= {{"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}}
for option, number in (("--output", 1), ("--error", 2)):
    path = words[words.index(option) + 1].replace("%t", "0")
    for pattern, key in (("%A", "SLURM_ARRAY_JOB_ID"), ("%a", "SLURM_ARRAY_TASK_ID")):
        path = path.replace(pattern, os.environ.get(key, ""))
    path = path.replace("%j", os.environ["SLURM_JOB_ID"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
os.execv(command[0], command)
"""
SACCT = """#!{python}
import os
from pathlib import Path

print("JobID|State|NodeList")
script = (Path(os.environ["FAKE_SLURM"]) / "submitted.sh").read_text()
count = int(script.split("--array=0-")[1].split("%")[0]) + 1 if "--array" in script else 0
for name in [f"4711_{{task}}" for task in range(count)] or ["4711"]:
    file = Path(os.environ["FAKE_SLURM"]) / name
    print(f"{{name}}|{{file.read_text().strip() if file.exists() else 'RUNNING'}}|here")
"""


def install(folder: Path) -> dict[str, str]:
    """Writes the commands.

    Args:
        folder: Where to; ``submitted.sh`` in it is what was handed to sbatch.

    Returns:
        Environment in which they are found.
    """
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (folder / name).write_text(text.format(python=sys.executable), encoding="utf-8")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "FAKE_SLURM": str(folder)}
