"""The house: each room imports only rooms above it, and habits that a reader can rely on."""

import ast
from pathlib import Path

import pytest

import metricflow

ROOT = Path(metricflow.__file__).parent
ROOMS = (
    "processes",
    "devices",
    "geometry",
    "ansatz",
    "energies",
    "diagnostics",
    "kernels",
    "clustering",
    "discretize",
    "flows",
    "optim",
    "data",
    "checkpoint",
    "records",
    "training",
    "plotting",
)
FLAX = {"ansatz/networks.py", "discretize/layers.py", "discretize/models.py"}
FILES = ("data", "checkpoint", "records", "training", "plotting")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(source: str, package: list[str]) -> set[str]:
    """The rooms that a module of ``package`` (its path below metricflow) imports from."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "metricflow":
                base = []
            else:
                continue
            parts = base + (node.module or "").removeprefix("metricflow").strip(".").split(".")
            parts = [p for p in parts if p]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("metricflow.")}
    return {name for name in found if not name.startswith("_")}


def modules() -> list[Path]:
    return [p for p in sorted(ROOT.rglob("*.py")) if room(p) in ROOMS]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = room(path)
    package = list(path.relative_to(ROOT).parent.parts)
    for other in imported_rooms(path.read_text(), package) - {own}:
        assert ROOMS.index(other) < ROOMS.index(own), f"{own} imports {other}"


def test_the_import_check_sees_imports():
    assert imported_rooms("from ..flows import x\nfrom .. import kernels", ["geometry"]) == {
        "flows",
        "kernels",
    }
    assert imported_rooms(
        "import metricflow.flows.kernel\nfrom .charts import y", ["geometry"]
    ) == {
        "flows",
        "geometry",
    }


def test_every_module_has_a_room():
    for path in ROOT.rglob("*.py"):
        assert room(path) in ROOMS or room(path).startswith("_"), path


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_habits(path):
    tree = ast.parse(path.read_text())
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    if "flax" in imported:
        assert str(path.relative_to(ROOT)) in FLAX
    if room(path) not in FILES:
        assert not imported & {"os", "pathlib", "io", "tempfile", "pickle", "shutil"}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [node.func.id for node in calls if isinstance(node.func, ast.Name)]
    assert "print" not in names
    if room(path) not in FILES:
        assert "open" not in names
    updates = [
        n
        for n in calls
        if isinstance(n.func, ast.Attribute) and ast.unparse(n.func) == "jax.config.update"
    ]
    assert not updates, "the library changes no setting of jax"
