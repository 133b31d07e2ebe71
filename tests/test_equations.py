import importlib.util
import pkgutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("build_equations", ROOT / "docs/build_equations.py")
build_equations = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build_equations)


def test_every_built_equation_has_a_function_and_a_test():
    assert build_equations.main(["--check"]) == 0


def test_every_function_is_where_the_page_says():
    for names in build_equations.sources(ROOT / "metricflow").values():
        for name in names:
            pkgutil.resolve_name(name)


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
    (tmp_path / "package/room").mkdir()
    (tmp_path / "package/room/b.py").write_text('def g():\n    """Source: RF 25."""\n')
    (tmp_path / "tests/test_a.py").write_text(
        'import pytest\n@pytest.mark.equation("MF 3.5", "RF 25")\ndef test_x():\n    pass\n'
    )
    return tmp_path


def test_sources_and_markers_are_found(tree):
    assert build_equations.sources(tree / "package") == {
        "MF 3.5": ["package.a.f"],
        "RF 25": ["package.a.f", "package.room.g"],
        "MF B.11": ["package.a.f"],
        "MF 2.3": ["package.a.C.m"],
    }
    assert build_equations.tests(tree / "tests") == {
        "MF 3.5": ["tests/test_a.py::test_x"],
        "RF 25": ["tests/test_a.py::test_x"],
    }


def test_names_of_tests_are_found(tree):
    assert build_equations.test_names(tree / "tests") == {"test_x"}


def entry(status, **more):
    return {"title": "", "status": status, "formula": "x"} | more


def test_gaps_in_the_coverage_are_named():
    built, planned = entry("built"), entry("planned")
    equations = {"MF 1": built, "MF 2": built, "MF 3": built, "MF 4": planned}
    code = {"MF 1": ["f"], "MF 2": ["f"], "MF 4": ["f"], "MF 5": ["f"]}
    checks = {"MF 1": ["t"], "MF 3": ["t"]}
    wrong = build_equations.problems(equations, code, checks)
    assert [w.split(" is ")[0] for w in wrong] == ["MF 2", "MF 3", "MF 4", "MF 5"]
    assert build_equations.problems({"MF 1": built}, {"MF 1": ["f"]}, {"MF 1": ["t"]}) == []


def test_every_status_means_something():
    code, checks = {"MF 1": ["f"]}, {"MF 1": ["t"]}
    erratum = entry("erratum", erratum="a sign")
    assert build_equations.problems({"MF 1": erratum}, code, checks) == []
    theory = {"MF 1": entry("theory", seen="test_x")}
    assert build_equations.problems(theory, {}, {}, {"test_x"}) == []
    assert "no test" in build_equations.problems(theory, {}, {}, {"test_y"})[0]
    assert (
        "no test" in build_equations.problems({"MF 1": {**erratum, "status": "theory"}}, {}, {})[0]
    )
    assert len(build_equations.problems({"MF 1": erratum}, {}, {})) == 2
    unsaid = entry("erratum")
    assert "what is wrong" in build_equations.problems({"MF 1": unsaid}, code, checks)[0]
    misspelt = entry("bulit")
    assert "unknown status" in build_equations.problems({"MF 1": misspelt}, {}, {})[0]


def test_every_equation_is_written_out():
    code, checks = {"MF 1": ["f"]}, {"MF 1": ["t"]}
    wrong = build_equations.problems({"MF 1": entry("built", formula="")}, code, checks)
    assert wrong == ["MF 1 is not written out: no formula"]


def test_docstrings_show_what_their_sources_say():
    equations = {"MF 1.2": entry("built", formula="a = b"), "RF 3": entry("built", formula="c")}
    plain = ["What.", "", "Source: section 3"]
    assert build_equations.with_formulas(plain, equations) == plain
    found = build_equations.with_formulas(["What.", "", "Source: RF 3, MF 1.2 (first)."], equations)
    assert found[:3] == ["What.", "", "Source: RF 3, MF 1.2 (first)."]
    assert [line.strip() for line in found[3:] if line] == [
        *(".. math::", r"c \tag{RF 3}", ".. math::", r"a = b \tag{MF 1.2}"),
    ]
    printed = ["What.", "", "Source: MF 1.2 (as printed)"]
    assert build_equations.with_formulas(printed, equations) == printed


def test_a_stale_page_is_seen(tree, monkeypatch, capsys):
    """The whole command on a tree of its own: gaps, a page that is missing, fresh, out of date."""
    (tree / "package").rename(tree / "metricflow")
    (tree / "docs").mkdir()
    listed = [("3.5", "built"), ("B.11", "planned"), ("2.3", "built")]
    table = [f'"{number}" = {{ title = "", status = "{status}" }}' for number, status in listed]
    formulas = "[formulas]\nMF = { '3.5' = 'x', 'B.11' = 'x', '2.3' = 'x' }\nRF = { '25' = 'x' }"
    text = "\n".join([formulas, '[papers]\nMF = "a"\nRF = "b"\n[MF]', *table, "[RF]"])
    (tree / "docs/equations.toml").write_text(text)
    monkeypatch.setattr(build_equations, "ROOT", tree)
    assert build_equations.main([]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "MF 2.3 is listed as built but no test checks it",
        "MF B.11 is named in code or tests but not listed as built",
        "RF 25 is named in code or tests but not listed as built",
    ]
    good = text.replace("planned", "erratum").replace('"erratum" }', '"erratum", erratum = "x" }')
    good += '\n"25" = { title = "", status = "built" }\n'
    (tree / "docs/equations.toml").write_text(good)
    (tree / "tests/test_b.py").write_text(
        'import pytest\n@pytest.mark.equation("MF 2.3", "MF B.11")\ndef test_y():\n    pass\n'
    )
    assert build_equations.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert build_equations.main([]) == 0
    assert build_equations.main(["--check"]) == 0
    page = tree / "docs/equations.md"
    page.write_text(page.read_text() + "by hand\n")
    assert build_equations.main(["--check"]) == 1
