"""Errors of the approximate inverses of the printed LNE metric, over n and tau.

The weak inverse leaves |I - g G|_F = q^2; the strong one is a network fitted to each metric; the
exact one costs as little as the weak.  Weights are drawn as He's initialisation of n weights.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import _flags, _run
from metricflow import __version__, discretize


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run.

    Attributes:
        sizes: n.
        taus: scales of the weights.
        steps: of Adam, for the strong inverse.
        seed: root seed.
    """

    sizes: tuple[int, ...] = (4, 8, 16, 32, 64)
    taus: tuple[float, ...] = (0.03, 0.1, 0.3, 0.5, 1.0)
    steps: int = 500
    seed: int = 0


PRESETS = {"default": Config(), "smoke": Config(sizes=(4,), taus=(0.1, 1.0), steps=50)}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """|I - g G|_F of the three inverses for every n and tau."""
    jax.config.update("jax_enable_x64", True)
    record = record or _run.Record()
    rows = [
        record.stage(f"{n}/{tau:g}", lambda n=n, tau=tau: _row(config, n, tau))  # type: ignore[misc]
        for n in tqdm(config.sizes, desc="lne_inverse", disable=None)
        for tau in config.taus
    ]
    return {
        "rows": rows,
        "seconds": {name: record.seconds(name) for name in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__},
    }


def _row(config: Config, n: int, tau: float) -> dict:
    key = jax.random.fold_in(jax.random.key(config.seed), n)
    draw_key, network_key = jax.random.split(key)
    # fan-in of a square layer of n weights
    w = jax.random.normal(draw_key, (n,)) * (2 / n**0.5) ** 0.5
    g = discretize.dense_rank_one_metric(w, tau)

    def residual(inverse: str) -> float:
        columns = jax.vmap(
            lambda v: discretize.lne_natural_gradient(w, v, tau, inverse=inverse)  # type: ignore[arg-type]
        )(jnp.eye(n))
        return float(jnp.linalg.norm(jnp.eye(n) - g @ columns))

    _, strong = discretize.strong_inverse(network_key, g, steps=config.steps)
    q = float(discretize.rank_one_share(w, tau))
    return {
        "n": n,
        "tau": tau,
        "q": q,
        "positive_definite": q < 1,
        "exact": residual("exact"),
        "weak": residual("weak"),
        "strong": float(strong),
    }


def draw(result: dict, folder: Path) -> None:
    """Residuals against q, one colour an inverse."""
    import matplotlib.pyplot as plt

    q = np.array([row["q"] for row in result["rows"]])
    figure, axis = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for name, marker in (("weak", "o"), ("strong", "s"), ("exact", "^")):
        values = np.array([row[name] for row in result["rows"]])
        axis.loglog(q, np.maximum(values, 1e-18), marker, ms=5, alpha=0.7, label=name)
    line = np.geomspace(q.min(), q.max(), 50)
    axis.loglog(line, line**2, color="0.5", lw=0.8, label="$q^2$")
    axis.axvline(1, color="0.7", lw=0.8, ls=":")
    axis.set_xlabel(r"$q = |\tanh(\tau w)|^2$; not positive definite beyond 1")
    axis.set_ylabel(r"$|I - g\,G|_F$")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    _run.save_figure(figure, folder / "inverses.png")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--steps", type=_flags.count, help="of Adam, for the strong inverse")
    parser.add_argument("--seed", type=_flags.whole, help="root seed")


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe."""
    given = {k: v for k in ("steps", "seed") if (v := getattr(arguments, k)) is not None}
    config = dataclasses.replace(PRESETS[arguments.preset], **given)
    if config.steps < 1:
        raise ValueError(f"--steps: expected at least 1, got {config.steps}")
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
