"""What a user installs: the wheel, its contents, and its use in an empty environment."""

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE")
RAN = {"3.11"}  # interpreters that ran this suite


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: what an older build left behind must not get in."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "metricflow", folder / "metricflow", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("tests", "experiments", "benchmarks"):  # they stand beside it, and stay out
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text('"""Not of the library."""\n')
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(folder / "dist"), str(folder)], check=True)
    (found,) = (folder / "dist").glob("*.whl")
    return found


def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if ".dist-info/" in name}
    library = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "py.typed", "records/*.npz")
        for path in (ROOT / "metricflow").rglob(pattern)
    }
    assert {"metricflow/py.typed", "metricflow/records/fermat_quintic.npz"} <= library
    assert names - about == library
    expected = {"METADATA", "WHEEL", "RECORD", "top_level.txt", "licenses/LICENSE"}
    assert {name.split(".dist-info/")[1] for name in about} == expected


def test_the_wheel_claims_what_was_run(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        about = email.message_from_bytes(archive.read(name))
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(about.get_all("Classifier")))
    assert versions
    assert set(versions) <= RAN
    assert about["Requires-Python"] == ">=3.11"
    assert about["License-Expression"] == "Apache-2.0"
    needed = {re.split(r"[<>=!;\[ ]", line)[0] for line in about.get_all("Requires-Dist")}
    assert imported_packages() <= {name.replace("-", "_") for name in needed}


# package -> distribution, where they differ; neural_tangents is asked for by name only
DISTRIBUTIONS = {"sklearn": "scikit_learn", "orbax": "orbax_checkpoint", "PIL": "pillow"}
OPTIONAL = {"neural_tangents"}


def imported_packages() -> set[str]:
    """Distributions that some module of the library imports."""
    found = set()
    for path in (ROOT / "metricflow").rglob("*.py"):
        lines = re.findall(r"^\s*(?:import|from) ([A-Za-z_]\w*)", path.read_text(), re.M)
        found |= set(lines) - set(sys.stdlib_module_names) - OPTIONAL
    return {DISTRIBUTIONS.get(name, name) for name in found if find_spec(name)}


def readme_program() -> str:
    """The lines of the README that load a stored metric."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (program,) = (block for block in blocks if "records.calabi_yau_metric" in block)
    return program


def constraints() -> str:
    """The versions of the lock, without hashes: a local wheel has none there."""
    lines = re.findall(r"^([\w.-]+==\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    assert len(lines) > 50
    return "\n".join(lines) + "\n"


@pytest.mark.heavy
def test_the_wheel_in_an_empty_environment(wheel, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    # nothing of this checkout may be seen, by pip neither
    own = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS", "NPROC")}
    own["MPLBACKEND"] = "Agg"

    def run(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=empty, env=own, capture_output=True, text=True)

    python = str(tmp_path / "venv/bin/python")
    pinned = tmp_path / "constraints.txt"
    pinned.write_text(constraints())
    for command in (
        (sys.executable, "-m", "venv", str(tmp_path / "venv")),
        (python, "-m", "pip", "install", "-q", "-c", str(pinned), f"{wheel}[experiments]"),
        (python, "-m", "pip", "check"),
    ):
        found = run(*command)
        assert found.returncode == 0, found.stdout + found.stderr

    found = run(python, "-c", "import metricflow; print(metricflow.__file__)")
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()).is_relative_to(tmp_path / "venv")
    found = run(python, "-c", readme_program())
    assert found.returncode == 0, found.stderr
    assert (empty / "eta.png").stat().st_size > 5000

    (empty / "right.py").write_text(RIGHT)
    (empty / "wrong.py").write_text(WRONG)
    checker = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python]
    found = run(*checker, "right.py")
    assert found.returncode == 0, found.stdout
    found = run(*checker, "wrong.py")
    assert "[arg-type]" in found.stdout
    assert "[attr-defined]" in found.stdout
    assert found.stdout.count("error:") == 2, found.stdout


RIGHT = """
import jax

from metricflow import diagnostics, geometry, records

metric = records.calabi_yau_metric("fermat_quintic")
points = geometry.sample_points(jax.random.key(0), metric.manifold, 100)
g: jax.Array = metric(points.z)
sigma: float = float(diagnostics.sigma_measure(g, points))
"""
WRONG = (
    RIGHT
    + """
diagnostics.sigma_measure("g", points)
metric.no_such_method()
"""
)
