import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("build_equations", ROOT / "docs/build_equations.py")
build_equations = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build_equations)


def test_every_built_equation_has_a_function_and_a_test():
    assert build_equations.main(["--check"]) == 0


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "package/a.py").write_text(
        'def f():\n    """What.\n\n    Source: MF 3.5 (its left side), RF 25,\n    MF B.11.\n'
        '\n    MF 9.9\n    """\n'
        'def _hidden():\n    """Source: MF 1.1."""\n'
        'class C:\n    """Source: MF section 3.1."""\n'
        '    def m(self):\n        """Source: MF 2.3."""\n'
    )
    (tmp_path / "tests/test_a.py").write_text(
        'import pytest\n@pytest.mark.equation("MF 3.5", "RF 25")\ndef test_x():\n    pass\n'
    )
    return tmp_path


def test_sources_and_markers_are_found(tree):
    assert build_equations.sources(tree / "package") == {
        "MF 3.5": ["package.a.f"],
        "RF 25": ["package.a.f"],
        "MF B.11": ["package.a.f"],
        "MF 2.3": ["package.a.C.m"],
    }
    assert build_equations.tests(tree / "tests") == {
        "MF 3.5": ["tests/test_a.py::test_x"],
        "RF 25": ["tests/test_a.py::test_x"],
    }


def test_gaps_in_the_coverage_are_named():
    built, planned = {"title": "", "status": "built"}, {"title": "", "status": "planned"}
    equations = {"MF 1": built, "MF 2": built, "MF 3": built, "MF 4": planned}
    code = {"MF 1": ["f"], "MF 2": ["f"], "MF 4": ["f"], "MF 5": ["f"]}
    checks = {"MF 1": ["t"], "MF 3": ["t"]}
    wrong = build_equations.problems(equations, code, checks)
    assert [w.split(" is ")[0] for w in wrong] == ["MF 2", "MF 3", "MF 4", "MF 5"]
    assert build_equations.problems({"MF 1": built}, {"MF 1": ["f"]}, {"MF 1": ["t"]}) == []
