"""Real Ricci flow on tori and spheres: what is exact, and what the two papers claim.

Curvature by two routes; the spectrum of the linear flow at a flat metric; decay of perturbations
under Ricci-DeTurck flow; Perelman's functional; the ill-posed flow of a fixed measure; uniform
equivalence; shrinking spheres and a pinching dumbbell.

Source: MF 2.39-2.42, RF 5, RF 8, RF 19, RF 20, RF 36-38.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from experiments import _flags, _run
from experiments._ricci_spheres import draw_dumbbell, dumbbell, round_spheres
from experiments._ricci_tori import (
    curvature,
    decay,
    draw_tori,
    equivalence,
    fixed_measure,
    perelman_monotonicity,
    spectrum,
)
from experiments._tori import check_tori
from metricflow import __version__


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run.

    Attributes:
        dims: of the tori.
        plane, space: points an axis on T^2 and on T^3.
        ladder: numbers of points at which curvature is compared, as shares of those.
        spectrum: points an axis of the dense spectra on T^2 and on T^3.
        sizes: largest entries of the perturbations that decay.
        decay_time: until when they do.
        perelman_size: largest entry of the perturbation under Perelman's functional.
        sphere_steps: Runge-Kutta steps of the round spheres.
        dumbbell: points, and the depth of the neck.
        dumbbell_steps: steps, of a length that follows the curvature.
        seed: root seed.
    """

    dims: tuple[int, ...] = (2, 3)
    plane: int = 31
    space: int = 15
    ladder: tuple[float, ...] = (0.5, 0.7, 1.0)
    spectrum: tuple[int, int] = (9, 5)
    sizes: tuple[float, ...] = (0.1, 0.05, 0.025, 0.0125)
    decay_time: float = 6.0
    perelman_size: float = 0.2
    sphere_steps: int = 1600
    dumbbell: tuple[int, float] = (160, 0.8)
    dumbbell_steps: int = 840
    seed: int = 0


PRESETS = {
    "default": Config(),
    "smoke": Config(
        dims=(2,),
        plane=13,
        space=7,
        ladder=(1.0,),
        spectrum=(3, 3),
        sizes=(0.1, 0.05),
        decay_time=4.0,
        perelman_size=0.1,
        sphere_steps=800,
        dumbbell=(40, 0.8),
        dumbbell_steps=240,
    ),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """All stages; the result as plain numbers."""
    jax.config.update("jax_enable_x64", True)
    _check(config)
    record = record or _run.Record()
    stages: dict[str, Callable[[Config], dict]] = {
        "curvature": curvature,
        "spectrum": spectrum,
        "decay": decay,
        "perelman": perelman_monotonicity,
        "fixed_measure": fixed_measure,
        "equivalence": equivalence,
        "spheres": round_spheres,
        "dumbbell": dumbbell,
    }
    found = {
        name: record.stage(name, lambda f=stage: f(config))  # type: ignore[misc]
        for name, stage in stages.items()
    }
    return found | {
        "seconds": {k: record.seconds(k) for k in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__},
    }


def draw(result: dict, folder: Path) -> None:
    """Flows on tori, and singularities of spheres."""
    draw_tori(result, folder / "tori.png")
    draw_dumbbell(result["dumbbell"], folder / "dumbbell.png")


def _check(config: Config) -> None:
    check_tori(config.dims, config.plane, config.space)
    if any(n < 3 or n % 2 == 0 for n in config.spectrum):
        raise ValueError("--spectrum: expected two odd numbers of at least 3")
    if len(config.sizes) < 2 or not all(0 < x <= 0.2 for x in config.sizes):
        raise ValueError("--sizes: expected at least two numbers above 0, at most 0.2")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--dims", nargs="+", type=int, choices=(2, 3), help="of the tori")
    parser.add_argument("--plane", type=_flags.count, help="points an axis on T^2, odd")
    parser.add_argument("--space", type=_flags.count, help="points an axis on T^3, odd")
    parser.add_argument("--sizes", nargs="+", type=_flags.amount, help="perturbations that decay")
    parser.add_argument("--seed", type=_flags.whole, help="root seed")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
