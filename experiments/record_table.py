"""Runs of ``record_metric`` side by side: a table, one JSON file, a figure for each manifold."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import _flags, _run

_KEPT = (
    "command",
    "manifold",
    "method",
    "seed",
    "budget",
    "sigma",
    "sigma_standard_error",
    "kaehler_defect",
    "chart_mismatch",
    "volume_ratio",
    "volume_ratio_standard_error",
    "min_eigenvalue",
    "mean_abs_ricci",
    "largest_gap",
    "versions",
)
_ROW = ("size", "seconds", "cpu_seconds", "sigma", "parameters", "points")
_COLUMNS = (
    "manifold",
    "method",
    "seed",
    "budget",
    "rung",
    "reached after",
    "sigma",
    "Kähler defect",
    "chart mismatch",
    "Vol/Vol_FS - 1",
    "min eigenvalue",
    "mean abs Ricci",
)


def collect(folders: Sequence[Path]) -> list[dict]:
    """What counts of every run: final diagnostics, and a row for each rung."""
    found = []
    for folder in folders:
        result = json.loads((folder / "result.json").read_text())
        rungs = [{k: rung[k] for k in _ROW if k in rung} for rung in result["rungs"]]
        found.append({**{k: result[k] for k in _KEPT}, "rungs": rungs})
    return found


def table(runs: Sequence[dict]) -> str:
    """A table in Markdown, a line a run."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    for run in runs:
        last = _final_rung(run)
        offset = run["volume_ratio"] - 1
        cells = (
            run["manifold"],
            run["method"],
            str(run["seed"]),
            f"{run['budget']:.0f} s",
            str(last["size"]),
            f"{last['seconds']:.0f} s",
            f"{run['sigma']:.2e} ± {run['sigma_standard_error']:.0e}",
            _number(run["kaehler_defect"]),
            _number(run["chart_mismatch"]),
            f"{offset:.0e} ± {run['volume_ratio_standard_error']:.0e}",
            f"{run['min_eigenvalue']:.3f}",
            _number(run["mean_abs_ricci"]),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(runs: Sequence[dict], folder: Path, peers: Sequence[dict] = ()) -> None:
    """sigma against wall time for every method, a figure a manifold."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    for manifold in dict.fromkeys(run["manifold"] for run in runs):
        histories: dict[str, Any] = {}
        for run in sorted(runs, key=lambda run: run["rungs"][-1]["seconds"]):
            if run["manifold"] == manifold:  # of several runs the longest is drawn
                histories[run["method"]] = [[r["seconds"], r["sigma"]] for r in run["rungs"]]
        figure, axis = plt.subplots(figsize=(6, 4.2), layout="constrained")
        plotting.accuracy_against_time(axis, histories)
        for peer in peers:
            if peer["settings"]["manifold"] == manifold:
                # the measurement before training has no place on a logarithmic axis
                rows = [row for row in peer["rows"] if row[0] >= 1]
                label = f"{peer['peer']} (CPU s)"
                axis.loglog(*zip(*rows, strict=True), "s:", color="0.5", ms=3, label=label)
                axis.legend(frameon=False)
        axis.set_title(manifold)
        _run.save_figure(figure, folder / f"record_{manifold.replace(':', '_')}.png")


def _final_rung(run: dict) -> dict:
    """The one whose metric was evaluated: the best within the budget."""
    within = [row for row in run["rungs"] if row["seconds"] <= run["budget"]] or run["rungs"][:1]
    return min(within, key=lambda row: row["sigma"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = _flags.Parser("python -m experiments.record_table", str(__doc__))
    parser.add_argument("runs", type=Path, nargs="+", help="folders of record_metric runs")
    parser.add_argument(
        "--peers",
        type=Path,
        nargs="+",
        default=[],
        help="JSON files of make peers, for the figures",
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder to write to")
    try:
        arguments = parser.parse_args(argv)
        runs = collect(arguments.runs)
        peers = [json.loads(path.read_text()) for path in arguments.peers]
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "record_metrics.json").write_text(json.dumps(runs, indent=1) + "\n")
    (arguments.out / "record_metrics.md").write_text(table(runs))
    draw(runs, arguments.out, peers)
    print(table(runs), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
