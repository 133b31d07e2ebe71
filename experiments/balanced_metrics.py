"""Donaldson's balanced metrics: sigma against the degree k, and how fast it falls.

Balanced metrics converge to the Calabi-Yau metric like 1/k^2: slowly, beside a fit of the same
form to the Monge-Ampere equation.

Source: Donaldson, Some numerical results in complex differential geometry (2005).
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from experiments import _flags, _run
from experiments._manifold import FORMS, parse_manifold
from metricflow import __version__, ansatz, diagnostics, geometry


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run.

    Attributes:
        manifold: see ``--manifold``.
        degrees: k.
        points: for the integrals, times the number S^2 of entries of the form, ...
        least_points: ... but at least so many.
        steps: iterations of Donaldson's map.
        test_points: fresh points.
        seed: root seed.
    """

    manifold: str = "fermat:3"
    degrees: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    points: int = 10
    least_points: int = 50_000
    steps: int = 12
    test_points: int = 20_000
    seed: int = 0


PRESETS = {
    "default": Config(),
    "smoke": Config("fermat:1", degrees=(1, 2, 3), least_points=3000, steps=8, test_points=200),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """The balanced metric of every degree, and the fit a / k^2 + b / k^3."""
    jax.config.update("jax_enable_x64", True)
    record = record or _run.Record()
    manifold = parse_manifold(config.manifold)
    rows = [
        record.stage(f"degree/{k}", lambda k=k: _degree_stage(config, manifold, k))  # type: ignore[misc]
        for k in tqdm(config.degrees, desc="balanced_metrics", disable=None)
    ]
    k, sigma = (np.array([row[name] for row in rows], float) for name in ("degree", "sigma"))
    # k = 1 is far from the law
    far = k > 1
    columns = np.stack([k[far] ** -2, k[far] ** -3], axis=1)
    # relative errors: every degree counts alike
    fit = np.linalg.lstsq(columns / sigma[far, None], np.ones(far.sum()))[0]
    return {
        "manifold": config.manifold,
        "rows": rows,
        "fit": {"a": float(fit[0]), "b": float(fit[1]), "from_degree": int(k[far].min())},
        "seconds": {name: record.seconds(name) for name in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def _degree_stage(config: Config, manifold: geometry.Hypersurface, degree: int) -> dict:
    key = jax.random.fold_in(jax.random.key(config.seed), degree)
    train, test = jax.random.split(key)
    count = ansatz.section_count(manifold, degree)
    points = geometry.sample_points(train, manifold, config.points * count**2 + config.least_points)
    sections = ansatz.section_basis(manifold, degree, points)
    form, changes = ansatz.balanced_form(sections, points, steps=config.steps)
    metric = ansatz.AlgebraicMetric(manifold, sections, form)
    fresh = geometry.sample_points(test, manifold, config.test_points)
    g = metric(fresh.z, fresh.chart)
    return {
        "degree": degree,
        "sections": count,
        "points": len(points.weight),
        "sigma": float(diagnostics.sigma_measure(g, fresh)),
        "sigma_standard_error": float(diagnostics.sigma_standard_error(g, fresh)),
        "min_eigenvalue": float(diagnostics.min_eigenvalue(g, fresh)),
        "last_change": changes[-1],
    }


def draw(result: dict, folder: Path) -> None:
    """sigma against k, with the fit."""
    import matplotlib.pyplot as plt

    k, sigma = (np.array([row[name] for row in result["rows"]]) for name in ("degree", "sigma"))
    line = np.linspace(result["fit"]["from_degree"], k.max(), 100)
    a, b = result["fit"]["a"], result["fit"]["b"]
    figure, axis = plt.subplots(figsize=(5.5, 4), layout="constrained")
    axis.loglog(k, sigma, "o", label="balanced metrics")
    axis.loglog(line, a / line**2 + b / line**3, label=f"${a:.2f}/k^2 {b:+.2f}/k^3$")
    axis.set_xticks(k, [str(i) for i in k])
    axis.minorticks_off()
    levels = [tick for tick in (0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.4) if tick > sigma.min()]
    axis.set_yticks(levels, [f"{tick:g}" for tick in levels])
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlabel("degree $k$")
    axis.set_ylabel(r"$\sigma$ on fresh points")
    axis.set_title(result["manifold"])
    axis.legend(frameon=False)
    _run.save_figure(figure, folder / "sigma.png")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--manifold", help=FORMS)
    parser.add_argument(
        "--degrees", type=_flags.count, nargs="+", help="degrees k, at least two above 1"
    )
    parser.add_argument("--seed", type=_flags.whole, help="root seed")


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe."""
    names = ("manifold", "degrees", "seed")
    given = {k: getattr(arguments, k) for k in names if getattr(arguments, k) is not None}
    if "degrees" in given:
        given["degrees"] = tuple(given["degrees"])
        if min(given["degrees"]) < 1 or len({k for k in given["degrees"] if k > 1}) < 2:
            raise ValueError(f"--degrees: expected two degrees above 1, got {given['degrees']}")
    return dataclasses.replace(PRESETS[arguments.preset], **given)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
