"""A map of the flows of metrics, with what was measured in each region.

Reads published results; run the experiments it names first if a file is missing.

Source: MF Fig. 1.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import _run
from metricflow import __version__

# region, text, file, places of the numbers in it
EXAMPLES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        "network",
        r"potential on the quintic: $\sigma$ = {:.1e}, Kähler",
        "network_potential_100k.json",
        ("summary/sigma/mean",),
    ),
    (
        "network",
        "Kähler-Ricci flow in a network: $\\sigma$ = {:.1e}",
        "kaehler_flow.json",
        ("representations/fermat:3/kinds/network/sigma",),
    ),
    (
        "frozen",
        "Gaussian, 10$^4$ points: gain {:.0f}, Kähler defect {:.1f}",
        "kernel_regression.json",
        ("flow/gaussian/test_gain/mean", "flow/gaussian/kaehler_defect/mean"),
    ),
    (
        "frozen",
        "invariant tensors: gain {:.0f}, Kähler defect {:.2f}",
        "kernel_regression.json",
        ("flow/invariant/test_gain/mean", "flow/invariant/kaehler_defect/mean"),
    ),
    (
        "local",
        "limit of kernels: distance $\\propto$ width$^{{{:.2f}}}$",
        "kaehler_flow.json",
        ("local_limit/orders/kaehler_ricci",),
    ),
    (
        "local",
        "Kähler-Ricci on the quintic: $\\sigma$ = {:.1e}",
        "kaehler_flow.json",
        ("summary/fermat:3/kaehler_ricci/sigma/mean",),
    ),
    (
        "perelman",
        "f solved backwards: dF/dt to {:.0e}",
        "ricci_flow.json",
        ("perelman/T2/hamilton/rate_error",),
    ),
    (
        "perelman",
        "measure held: $e^{{+k^2 t}}$, ill-posed (to {:.0e})",
        "ricci_flow.json",
        ("fixed_measure/error",),
    ),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the published results are."""

    published: str = "docs/results"


PRESETS = {"default": Config()}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """The texts of the map, and where their numbers come from."""
    record = record or _run.Record()
    return record.stage("map", lambda: _texts(Path(config.published)))


def draw(result: dict, folder: Path) -> None:
    """The map."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    figure, axis = plt.subplots(figsize=(8, 5.4), layout="constrained")
    plotting.flow_map(axis, result["texts"])
    _run.save_figure(figure, folder / "flow_map.png")


def _texts(folder: Path) -> dict:
    texts: dict[str, list[str]] = {}
    sources = []
    for region, text, name, places in EXAMPLES:
        path = folder / name
        if not path.exists():
            raise ValueError(f"--published: {path} is missing; run the experiment that makes it")
        content = json.loads(path.read_text())
        numbers = [_number(content, place, path) for place in places]
        texts.setdefault(region, []).append(text.format(*numbers))
        sources.append({"file": name, "places": list(places), "numbers": numbers})
    return {"texts": texts, "sources": sources, "version": __version__}


def _number(content: Any, place: str, path: Path) -> float:
    for key in place.split("/"):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"--published: {path} has no {place}; it is of another version")
        content = content[key]
    return float(content)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--published", help="folder of published results")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
