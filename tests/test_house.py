"""The files around the code: targets, the commands of CI, and what no file may mention."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENDINGS = {".py", ".md", ".toml", ".cff", ".lock", ".ipynb", ".json", ".yml", ".yaml", ".txt"}
LOCKS = ("requirements.lock", "requirements-neural-tangents.lock")
BY_NAME = ("Makefile", ".ci/run", ".gitignore")
GENERATED = {"results", "_build", "build", "dist", "__pycache__"}
# paths of one machine; written so that this file passes its own check
MACHINE_PATH = re.compile(r"(?<![\w./~-])/(?:work|tmp|root|home|Users|opt)/|\bshared" + "/")


def sources(root: Path) -> list[Path]:
    found = [root / name for name in BY_NAME if (root / name).exists()]
    for folder, below, names in os.walk(root):
        published = Path(folder).relative_to(root) == Path("docs")
        below[:] = [
            name
            for name in below
            if not name.startswith(".")  # environments, caches of tools
            and not name.endswith(".egg-info")
            and (name not in GENERATED or (published and name == "results"))
        ]
        found += [Path(folder) / name for name in names if Path(name).suffix in ENDINGS]
    return sorted(set(found))


def machine_paths(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)}: {line.strip()[:80]}"
        for path in sources(root)
        for line in path.read_text().splitlines()
        if MACHINE_PATH.search(line)
    ]


def test_no_file_names_a_path_of_one_machine():
    assert machine_paths(ROOT) == []


def test_paths_of_a_machine_are_seen(tmp_path):
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "results").mkdir()
    (tmp_path / "docs/results/a.json").write_text('{"file": "/ho' + 'me/someone/a"}')
    (tmp_path / "b.md").write_text("see ../sha" + "red/notes and https://example.org/home/page")
    (tmp_path / "c.py").write_text('path = "results/tmp/a"')
    (tmp_path / "results/d.json").write_text('"/t' + 'mp/x"')
    assert [line.split(":")[0] for line in machine_paths(tmp_path)] == [
        "b.md",
        "docs/results/a.json",
    ]


def test_the_make_targets_are_there_and_say_what_they_do():
    text = (ROOT / "Makefile").read_text()
    wanted = {"main", "test", "test-heavy", "docs", "lock", "clean", "benchmark", "peers"}
    assert wanted <= set(re.findall(r"^([a-z-]+):.*## .+", text, re.M))


def test_ci_runs_make_test_and_nothing_else():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    lines = [x for x in script.read_text().splitlines() if x and not x.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert lines[-1] == "make test"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["main", "test"])
def test_a_fresh_clone_is_set_up_from_the_lock_before_anything_runs(target, tmp_path):
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    plan = subprocess.run(
        ["make", "--dry-run", target], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    order = ("-m venv", "--require-hashes -r requirements.lock", "--no-deps --no-build-isolation")
    places = [plan.index(step) for step in order]
    assert places == sorted(places)
    first = "experiments.quintic_kernel" if target == "main" else "ruff check"
    assert plan.index(first) > places[-1]
