"""``python -m experiments``: what there is, how long it takes, and where its last result lies."""

import argparse
import ast
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_HERE = Path(__file__).parent
_PUBLISHED = _HERE.parent / "docs" / "results"


class Experiment(NamedTuple):
    """An experiment, as the list shows it.

    Attributes:
        name: of the module.
        about: the first line of its description.
        seconds: of the published run with the fewest flags, on two cores; None if there is none.
        last: the newest result, or None.
    """

    name: str
    about: str
    seconds: float | None
    last: Path | None


def experiments(out: Path) -> Iterator[Experiment]:
    """All experiments, with their newest results below a folder."""
    for path in sorted(_HERE.glob("[a-z]*.py")):
        source = path.read_text()
        if "_run.launch(" not in source:
            continue
        results = list((out / path.stem).glob("*/result.json"))
        yield Experiment(
            path.stem,
            str(ast.get_docstring(ast.parse(source))).splitlines()[0],
            _published_seconds(path.stem),
            max(results, key=lambda file: file.stat().st_mtime, default=None),
        )


def _published_seconds(name: str) -> float | None:
    found = []
    for path in sorted(_PUBLISHED.glob("*.json")):
        content = json.loads(path.read_text())
        # some are tables of several runs
        whole = content if isinstance(content, dict) else {}
        command, seconds = str(whole.get("command")).split(), whole.get("seconds")
        if command[:3] == ["python", "-m", f"experiments.{name}"] and seconds:
            total = seconds["total"] if isinstance(seconds, dict) else seconds
            found.append((len(command), total))
    return min(found)[1] if found else None


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of all results")
    arguments = parser.parse_args(argv)
    for found in experiments(arguments.out):
        time = "-" if found.seconds is None else f"{max(1, round(found.seconds / 60))} min"
        print(f"{found.name:22s} {time:>7s}  {found.about}")
        if found.last is not None:
            day = datetime.date.fromtimestamp(found.last.stat().st_mtime)
            print(f"{'':31s}  last result: {found.last.parent}, {day}")
    print(
        "\nminutes of the published runs on two cores, or less; python -m experiments.NAME --help"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
