"""Make docs/equations.md from the docstrings, the tests and docs/equations.toml.

``python docs/build_equations.py`` writes the page; ``--check`` only says whether it is up to date.
A docstring names what it implements in a line ``Source: MF 3.5, MF 2.3 (comment)``; a test names
what it checks with ``@pytest.mark.equation("MF 3.5")``.
"""

import ast
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LABEL = re.compile(r"\b(MF|RF) ((?:[A-Z]\.)?\d+(?:\.\d+)?)")
SOURCE = re.compile(r"^Source:(.*?)(?:\n\s*\n|\Z)", re.S | re.M)
BUILT = ("built", "erratum")
STATUSES = (*BUILT, "theory", "planned")
PAPERS = {
    "MF": "Metric Flows with Neural Networks",
    "RF": "Learning Discretized Neural Networks under Ricci Flow",
}
WORDS = {
    "built": "Built: {functions}.  Tests: {checked}.",
    "erratum": "**Not as printed**: {erratum}.\n\nBuilt: {functions}.  Tests: {checked}.",
    "theory": "Theory; seen at work in {checked}.",
    "planned": "Planned.",
}

Index = dict[str, list[str]]


def sources(package: Path) -> Index:
    """Equation label -> dotted names of the public objects whose docstring names it."""
    found: Index = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        # what a room exports carries the room's name, as in the API pages
        inside = path.relative_to(package).with_suffix("").parts
        module = ".".join([package.name, *inside[: max(1, len(inside) - 1)]])
        for name, node in _definitions(ast.parse(path.read_text())):
            text = ast.get_docstring(node) or ""
            for block in SOURCE.findall(text):
                for paper, number in LABEL.findall(block):
                    found[f"{paper} {number}"].append(f"{module}.{name}")
    return dict(found)


def tests(folder: Path) -> Index:
    """Equation label -> test files and functions that carry its marker."""
    found: Index = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.equation":
                    for label in mark.args:
                        where = path.relative_to(folder.parent).as_posix()
                        found[ast.literal_eval(label)].append(f"{where}::{node.name}")
    return dict(found)


def listed(table: Path) -> dict[str, dict[str, str]]:
    """Equation label -> title, status, erratum and formula, in the order of the list."""
    content = tomllib.loads(table.read_text())
    formulas = content.get("formulas", {})
    return {
        f"{paper} {number}": entry | {"formula": formulas.get(paper, {}).get(number, "")}
        for paper in content["papers"]
        for number, entry in content.get(paper, {}).items()
    }


def with_formulas(docstring: list[str], equations: dict[str, dict[str, str]]) -> list[str]:
    """Lines of a docstring, the equations that its ``Source:`` names written out below."""
    text = "\n".join(docstring)
    labels = [
        f"{paper} {number}"
        for block in SOURCE.findall(text)
        for paper, number in LABEL.findall(block)
    ]
    # what is built as printed is not what the list has
    shown = [] if "as printed" in text[text.rfind("Source:") :] else dict.fromkeys(labels)
    lines = []
    for label in shown:
        if label in equations:
            formula = equations[label]["formula"]
            lines += ["", ".. math::", "", rf"   {formula} \tag{{{label}}}"]
    return [*docstring, *lines, ""] if lines else docstring


def test_names(folder: Path) -> set[str]:
    """Names of all test functions."""
    found = re.compile(r"^def (test_\w+)", re.M)
    return {name for path in folder.rglob("test_*.py") for name in found.findall(path.read_text())}


def problems(
    equations: dict[str, dict[str, str]], code: Index, checks: Index, known: Collection[str] = ()
) -> list[str]:
    """What is wrong with the coverage; empty when everything built is built and tested.

    Args:
        equations, code, checks: from the functions above.
        known: names of tests, in which an equation of theory has to be seen.
    """
    wrong = []
    for label, entry in equations.items():
        if entry["status"] not in STATUSES:
            wrong.append(f"{label} is of unknown status {entry['status']!r}, not in {STATUSES}")
        if not entry["formula"]:
            wrong.append(f"{label} is not written out: no formula")
        if entry["status"] == "erratum" and not entry.get("erratum"):
            wrong.append(f"{label} is listed as erratum but nothing says what is wrong in print")
        if entry["status"] == "theory" and entry.get("seen") not in known:
            wrong.append(
                f"{label} is theory and is seen in {entry.get('seen')!r}, which is no test"
            )
        if entry["status"] in BUILT:
            if label not in code:
                wrong.append(f"{label} is listed as built but no docstring names it")
            if label not in checks:
                wrong.append(f"{label} is listed as built but no test checks it")
    for label in sorted({*code, *checks}):
        if equations.get(label, {}).get("status") not in BUILT:
            wrong.append(f"{label} is named in code or tests but not listed as built")
    return wrong


def page(equations: dict[str, dict[str, str]], code: Index, checks: Index) -> str:
    """The page as MyST Markdown."""
    count = Counter(entry["status"] for entry in equations.values())
    built = sum(count[status] for status in BUILT)
    lines = [
        "# Equations of the two papers",
        "",
        "<!-- generated by docs/build_equations.py from docs/equations.toml and the docstrings -->",
        "",
        f"Of {len(equations)} equations {built} are built, each with a function and a test that "
        f"checks it ({count['erratum']} of them not as printed); {count['planned']} are planned "
        f"and {count['theory']} are theory, definitions and steps of proofs: a test is named "
        "in which they can be seen at work, no proof.  MF is *Metric Flows with "
        "Neural Networks*, RF is *Learning Discretized Neural Networks under Ricci Flow*.",
        "",
        "Formulas are written as they hold, corrected where the print is wrong; repeated indices "
        "are summed over, and what the papers call phi in Perelman's functional is f.",
    ]
    for label, entry in equations.items():
        paper = label.split()[0]
        if f"## {PAPERS[paper]}" not in lines:
            lines += ["", f"## {PAPERS[paper]}"]
        functions = ", ".join(f"{{py:obj}}`~{name}`" for name in code.get(label, []))
        checked = ", ".join(f"`{t.split('::')[1]}`" for t in checks.get(label, []))
        if "seen" in entry:
            checked = f"`{entry['seen']}`"
        lines += [
            "",
            f"### {label}: {entry['title']}",
            "",
            f"$${entry['formula']}$$",
            "",
            WORDS[entry["status"]].format(**entry, functions=functions, checked=checked),
        ]
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    equations = listed(ROOT / "docs/equations.toml")
    code, checks = sources(ROOT / "metricflow"), tests(ROOT / "tests")
    wrong = problems(equations, code, checks, test_names(ROOT / "tests"))
    target = ROOT / "docs/equations.md"
    text = page(equations, code, checks)
    if "--check" not in arguments:
        target.write_text(text)
    elif not target.exists() or target.read_text() != text:
        wrong.append("docs/equations.md is out of date: run python docs/build_equations.py")
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


def _definitions(tree: ast.Module) -> list[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    found: list[tuple[str, ast.FunctionDef | ast.ClassDef]] = []
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            found.append((node.name, node))
            if isinstance(node, ast.ClassDef):
                found += [
                    (f"{node.name}.{inner.name}", inner)
                    for inner in node.body
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_")
                ]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
