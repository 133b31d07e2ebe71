"""``python -m experiments``: what there is, how long it takes, and where its last result lies."""

import ast
import datetime
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import _flags

_HERE = Path(__file__).parent
_PUBLISHED = _HERE.parent / "docs" / "results"


class Experiment(NamedTuple):
    """An experiment, as the list shows it.

    Attributes:
        name: of the module.
        about: the first line of its description.
        seconds: of the published runs on two cores, shortest first.
        last: the newest result, or None.
    """

    name: str
    about: str
    seconds: list[float]
    last: Path | None


def experiments(out: Path) -> Iterator[Experiment]:
    """All experiments, with their newest results below a folder."""
    published = _published_seconds()
    for path in sorted(_HERE.glob("[a-z]*.py")):
        source = path.read_text()
        if "_run.launch(" not in source:
            continue
        results = list((out / path.stem).glob("*/result.json"))
        yield Experiment(
            path.stem,
            str(ast.get_docstring(ast.parse(source))).splitlines()[0],
            sorted(published[path.stem]),
            max(results, key=lambda file: file.stat().st_mtime, default=None),
        )


def _published_seconds() -> dict[str, list[float]]:
    found = defaultdict(list)
    for path in _PUBLISHED.glob("*.json"):
        content = json.loads(path.read_text())
        # some are tables of several runs
        for run in content if isinstance(content, list) else [content]:
            words = str(run.get("command")).split()
            # a budget in place of a measurement: the run ends with it
            seconds = run.get("seconds", run.get("budget"))
            if words[:2] == ["python", "-m"] and seconds:
                total = seconds["total"] if isinstance(seconds, dict) else seconds
                found[words[2].removeprefix("experiments.")].append(total)
    return found


def _minutes(seconds: Sequence[float]) -> str:
    rounded = sorted({max(1, round(s / 60)) for s in seconds})
    return "-".join(str(m) for m in (rounded[0], rounded[-1])[: len(rounded)]) if rounded else "-"


def _taken(result: Path) -> str:
    """How long a run took, as far as its result tells."""
    try:
        seconds = json.loads(result.read_text())["seconds"]
        return f", {_minutes([seconds['total'] if isinstance(seconds, dict) else seconds])} min"
    except (ValueError, KeyError, TypeError):
        return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = _flags.Parser("python -m experiments", str(__doc__))
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of all results")
    try:
        arguments = parser.parse_args(argv)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'':20s} minutes")
    for found in experiments(arguments.out):
        print(f"{found.name:20s} {_minutes(found.seconds):>7s}  {found.about}")
        if found.last is not None:
            day = datetime.date.fromtimestamp(found.last.stat().st_mtime)
            print(f"{'':29s} last result: {found.last.parent}, {day}{_taken(found.last)}")
    print(
        "\nMinutes: of the published runs on two cores, shortest to longest (docs/results).\n"
        "Each runs by python -m experiments.NAME, and says more with --help."
    )
    return 0


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
