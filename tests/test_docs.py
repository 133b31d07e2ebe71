import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import FunctionType

import pytest

import metricflow
from tests.conftest import QUICK_TO_COMPILE

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("build_gallery", ROOT / "docs/build_gallery.py")
build_gallery = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build_gallery)
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/howto").glob("*.md")),
]


def snippets(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.S | re.M)


@pytest.mark.parametrize("path", [p for p in PAGES if snippets(p)], ids=lambda p: p.name)
def test_the_code_of_a_page_runs_from_top_to_bottom(path, tmp_path):
    code = "\n".join(snippets(path))
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "MPLBACKEND": "Agg"}
    if path.name != "README.md":  # which has the compiler that its readers have
        environment["XLA_FLAGS"] = QUICK_TO_COMPILE
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_pages_with_code_are_there():
    assert {"README.md", "getting_started.md", "kernel_flows.md", "own_kernel.md"} <= {
        p.name for p in PAGES if snippets(p)
    }


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs/index.md").read_text()
    trees = re.findall(r"```\{toctree\}.*?\n\n(.*?)```", index, re.S)
    listed = [name for tree in trees for name in tree.split()]
    pages = [path.relative_to(ROOT / "docs").with_suffix("") for path in PAGES[1:]]
    assert sorted(listed) == sorted(str(page) for page in pages if page != Path("index"))


def test_figures_and_files_that_pages_name_exist():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
    for path in (ROOT / "docs/results").iterdir():
        assert path.stat().st_size < 1_000_000


def test_the_gallery_shows_every_figure(tmp_path):
    assert build_gallery.main(["--check"]) == 0
    trees = ["one\n", "two\ngallery\n"]
    index = "\n".join(f"```{{toctree}}\n:caption: A\n\n{tree}```\n" for tree in trees)
    (tmp_path / "index.md").write_text(index)
    (tmp_path / "two.md").write_text("# Another\n\n![One more](results/c.png)\n")
    (tmp_path / "one.md").write_text("# One page\n\n![A figure](results/a.png)\n\ntext\n")
    (tmp_path / "gallery.md").write_text("![An old one](results/b.png)\n")
    made = build_gallery.page(tmp_path)
    assert "## [One page](one.md)\n\n![A figure](results/a.png)\n\nA figure.\n" in made
    assert "## [Another](two.md)\n\n![One more](results/c.png)\n" in made
    assert "b.png" not in made


def test_the_version_is_one():
    version = metricflow.__version__
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version.split('.dev')[0]}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_lock_has_hashes_and_no_addresses():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "index" not in text.split("--hash")[0]
    entries = re.findall(r"^([A-Za-z0-9_.-]+)==\S+ \\\n    --hash=sha256:", text, re.M)
    pinned = re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.M)
    assert entries == pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        assert re.match(r"[A-Za-z0-9_-]+", requirement)[0].lower() in pinned


def test_the_architecture_page_names_every_room():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in (ROOT / "metricflow").iterdir():
        if path.name != "__pycache__" and path.name not in ("__init__.py", "py.typed"):
            assert path.name in text, path.name


def test_readme_commands_are_make_targets():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text(), re.M)
    assert {"main", "test"} <= set(named) <= set(targets)


def test_the_pages_of_the_papers_name_every_erratum():
    table = tomllib.loads((ROOT / "docs/equations.toml").read_text())
    for paper, page in (("MF", "paper_metric_flows"), ("RF", "paper_discretised")):
        text = (ROOT / f"docs/{page}.md").read_text().split("## Errata")[1]
        wrong = {k for k, entry in table[paper].items() if entry["status"] == "erratum"}
        assert set(re.findall(rf"{paper} ([A-Z.\d]+)", text)) >= wrong


def test_the_api_page_has_every_public_name():
    """automodule lists classes and functions; what it does not list is written by hand."""
    text = (ROOT / "docs/api.md").read_text()
    rooms = set(re.findall(r"automodule:: metricflow\.(\w+)$", text, re.M))
    public = [path for path in (ROOT / "metricflow").iterdir() if not path.name.startswith("_")]
    assert rooms == {path.stem for path in public if path.name != "py.typed"}
    for room in rooms:
        module = importlib.import_module(f"metricflow.{room}")
        for name in getattr(module, "__all__", ()):
            found = getattr(module, name)
            # jitted functions wrap theirs
            if not isinstance(inspect.unwrap(found), type | FunctionType):
                assert f"metricflow.{room}.{name}\n" in text, f"{room}.{name}"
