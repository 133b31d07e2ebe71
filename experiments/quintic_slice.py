"""The classic picture of the quintic: a slice in three dimensions, coloured by a metric.

Fixing all but two homogeneous coordinates of the Fermat hypersurface of degree d leaves the curve
z_1^d + z_2^d = 1, a real surface in C^2 made of d^2 patches; it is drawn at
(Re z_1, Re z_2, cos(a) Im z_1 + sin(a) Im z_2).  The fixed coordinates are all equal,
z_3 = ... = z_(n+2) = exp(i pi / d) n^(-1/d): their d-th powers add up to -1, so every point of the
slice is on the hypersurface, in any dimension, and no coordinate but z_1 and z_2 ever vanishes.
The curve is fixed by the permutations of those coordinates, so it is totally geodesic for every
metric that has this symmetry.  A metric that is only approximately the same in all charts shows
edges where the chart changes.

Source: A. J. Hanson, Notices of the AMS 41 (1994) 1156 (the patches and the projection).
"""

import argparse
import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _flags, _page, _run
from experiments._manifold import FORMS, STORED, parse_manifold, stored_metric
from metricflow import __version__, diagnostics, geometry, processes
from metricflow._files import write_atomically

COLOURS = ("log_eta", "ricci")
LABELS = {
    "log_eta": r"$\log\,\eta$",
    "ricci": r"$g^{a\bar b}R_{a\bar b}$ at unit volume",
}
PAGE_LABELS = {"log_eta": "log η", "ricci": "Ricci scalar at unit volume"}
CMAP = "plasma"
PAGE = "slice.html"
_RESIDUAL = 1e-12


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    metric: str | None = None
    manifold: str = "fermat:3"
    colour: str = "log_eta"
    resolution: int = 32
    angle: float = 45.0
    extent: float = 1.0
    sample: int = 5000
    seed: int = 0


PRESETS = {"default": Config(), "smoke": Config(resolution=4)}


def slice_points(dim: int, resolution: int, extent: float = 1.0) -> np.ndarray:
    """Homogeneous coordinates of the slice, patch by patch.

    Patch (k, l) is z_1 = exp(2 pi i k / d) cos(u)^(2/d), z_2 = exp(2 pi i l / d) sin(u)^(2/d) with
    u = theta + i xi, 0 <= theta <= pi/2, |xi| <= ``extent``.  Across theta = pi/2 its half xi <= 0
    meets the half xi >= 0 of (k+1, l), and across theta = 0 its half xi >= 0 meets the half
    xi <= 0 of (k, l+1), both with xi reversed; xi = +-``extent`` is the free boundary.

    Args:
        dim: complex dimension n of the hypersurface, of degree d = n + 2.
        resolution: cells along each side of a patch.
        extent: where the curve, which goes to infinity, is cut.

    Returns:
        Shape (d, d, resolution + 1, resolution + 1, n + 2), the axes k, l, theta, xi, coordinate.
    """
    degree = dim + 2
    t = np.arange(resolution + 1) / resolution
    # finer towards z_1 = 0 and z_2 = 0, where the power 2/d stretches the cells
    sine = np.sin(np.pi / 2 * t**2 * (3 - 2 * t))
    sine[-1] = 1
    cosine = sine[::-1]  # exactly zero at the end, as sin is at the start
    signed = t - t[::-1]  # exactly odd, so that patches meet to the last bits
    xi = extent * signed * np.abs(signed)
    cosh, sinh = np.cosh(xi), np.sinh(xi)
    z1 = (cosine[:, None] * cosh - 1j * sine[:, None] * sinh) ** (2 / degree)
    z2 = (sine[:, None] * cosh + 1j * cosine[:, None] * sinh) ** (2 / degree)
    phase = np.exp(2j * np.pi * np.arange(degree) / degree)
    z = np.empty((degree, degree, *z1.shape, degree), complex)
    z[..., 0] = phase[:, None, None, None] * z1
    z[..., 1] = phase[None, :, None, None] * z2
    z[..., 2:] = np.exp(1j * np.pi / degree) * dim ** (-1 / degree)
    return z


def projected(z: np.ndarray, angle: float) -> np.ndarray:
    """(Re z_1, Re z_2, cos(a) Im z_1 + sin(a) Im z_2) of shape (..., 3), the angle in degrees."""
    a = np.deg2rad(angle)
    z1, z2 = z[..., 0], z[..., 1]
    return np.stack([z1.real, z2.real, np.cos(a) * z1.imag + np.sin(a) * z2.imag], axis=-1)


def projected_normals(z: np.ndarray, angle: float) -> np.ndarray:
    """Normals of the projected surface at points z of the slice, same shape as the projection.

    The complex tangent (z_2^(d-1), -z_1^(d-1)) spans the real tangent plane together with i times
    itself.
    """
    power = z.shape[-1] - 1
    tangent = np.stack([z[..., 1] ** power, -(z[..., 0] ** power)], axis=-1)
    return np.cross(projected(tangent, angle), projected(1j * tangent, angle))


@jax.jit
def volume(metric: Any, g: jax.Array, points: geometry.Points) -> jax.Array:
    """Vol(g), from points of the Fubini-Study measure."""
    reference = geometry.fubini_study_volume(metric.manifold)
    return reference * diagnostics.volume_ratio(g, points)


def run(config: Config, record: _run.Record | None = None) -> dict:
    """The slice and its colours, kept as ``slice.npz``; what was found about them as numbers."""
    jax.config.update("jax_enable_x64", True)
    record = record or _run.Record()
    metric = _metric(config)
    if config.colour == "ricci" and getattr(metric, "without_kaehler_defect", None):
        raise ValueError(f"--colour ricci: {metric.without_kaehler_defect}")
    found = record.stage("slice", lambda: _slice_stage(config, metric, record))
    return {
        "metric": Path(config.metric).name if config.metric else "Fubini-Study",
        "dim": metric.manifold.dim,
        "colour": config.colour,
        "angle": config.angle,
        **found,
        "seconds": {k: record.seconds(k) for k in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def draw(result: dict, folder: Path) -> None:
    """The surface as a PNG and as a page to turn it in, from ``slice.npz`` beside the folder."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    with np.load(folder.parent / "slice.npz") as stored:
        z, values = stored["z"], stored["values"]
    patches = z.reshape(-1, *z.shape[2:])
    values = values.reshape(patches.shape[:-1])
    low, high = result["limits"]
    figure = plt.figure(figsize=(7, 6))
    plotting.shaded_surface(
        figure.add_axes((0.02, 0.02, 0.82, 0.96)),
        projected(patches, result["angle"]),
        projected_normals(patches, result["angle"]),
        values,
        limits=(low, high),
        cmap=CMAP,
    )
    bar = figure.add_axes((0.87, 0.25, 0.02, 0.5))
    plotting.colour_bar(bar, (low, high), cmap=CMAP, label=LABELS[result["colour"]])
    _run.save_figure(figure, folder / "slice.png")

    degree = result["dim"] + 2
    _page.write_page(
        folder / PAGE,
        patches,
        values,
        limits=(low, high),
        cmap=CMAP,
        angle=result["angle"],
        title=f"A slice of the Fermat hypersurface of degree {degree}",
        text=f"{PAGE_LABELS[result['colour']]} of {result['metric']} on the {degree**2} patches of "
        f"z₁<sup>{degree}</sup> + z₂<sup>{degree}</sup> = 1",
    )


def interactive(folder: Path, height: int = 640) -> Any:
    """The page of a finished run, to be turned by hand in a notebook.

    Args:
        folder: of the run, as ``results/quintic_slice/default``.
        height: of the frame, in pixels.

    Returns:
        An ``IPython.display.HTML`` that holds the whole page.

    Raises:
        ValueError: there is no page.
    """
    from IPython.display import HTML

    path = Path(folder) / "figures" / PAGE
    if not path.exists():
        raise ValueError(f"{path}: no such file; run or --redraw this experiment first")
    return HTML(_page.embedded(path, height))


def _slice_stage(config: Config, metric: Any, record: _run.Record) -> dict:
    manifold = metric.manifold
    z = slice_points(manifold.dim, config.resolution, config.extent)
    flat = z.reshape(-1, manifold.ambient)
    residual = float(jnp.max(geometry.residual(manifold, flat)))
    if residual > _RESIDUAL:
        raise ValueError(
            f"the slice lies on Fermat hypersurfaces only, but here |P| / |z|^d is {residual:.2g}"
        )
    points = geometry.points_at(manifold, flat, chart=metric.chart(flat))
    first, second = jax.random.split(jax.random.key(config.seed))
    sample = geometry.sample_points(first, manifold, config.sample)
    sample_g = metric(sample.z, sample.chart)
    kappa = diagnostics.kappa_estimate(sample_g, sample)
    fresh = geometry.sample_points(second, manifold, config.sample)
    fresh_eta = diagnostics.eta(metric(fresh.z, fresh.chart), fresh, kappa)
    eta = diagnostics.eta(metric(points.z, points.chart), points, kappa)
    if float(jnp.min(eta)) <= 0:
        raise ValueError("metric: its determinant is not positive everywhere on the slice")
    values = np.asarray(jnp.log(eta))
    if config.colour == "ricci":
        # the scalar of the same metric scaled to unit volume, so that the scale does not matter
        unit = volume(metric, sample_g, sample) ** (1 / manifold.dim)
        values = np.asarray(unit * geometry.ricci_scalar(metric, points))
    if not np.all(np.isfinite(values)):
        raise ValueError(f"--colour {config.colour}: not finite at some points of the slice")
    path = record.file("slice.npz")
    if path is not None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, z=z, values=values.reshape(z.shape[:-1]))
        processes.on_first(lambda: write_atomically(path, buffer.getvalue()))
    return {
        "patches": manifold.degree**2,
        "points": len(flat),
        "residual": residual,
        "kappa": float(kappa),
        # on points that kappa was not estimated from: 1 up to sampling error
        "eta_mean": float(jnp.sum(fresh.weight * fresh_eta) / jnp.sum(fresh.weight)),
        "limits": [float(values.min()), float(values.max())],
    }


def _metric(config: Config) -> Any:
    if config.metric is not None:
        return stored_metric(config.metric)
    return geometry.FubiniStudyMetric(parse_manifold(config.manifold))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument(
        "--metric", help="a saved or a stored metric, " + STORED + "; Fubini-Study without it"
    )
    parser.add_argument("--manifold", help=f"of the Fubini-Study metric, {FORMS}")
    parser.add_argument("--colour", choices=COLOURS, help="log eta, or the Ricci scalar")
    parser.add_argument("--resolution", type=_flags.count, help="cells along each side of a patch")
    parser.add_argument("--angle", type=_flags.number, help="angle a of the projection, in degrees")


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe."""
    if arguments.metric and arguments.manifold:
        raise ValueError("--manifold: a saved metric brings its own; leave one of the flags out")
    names = ("metric", "manifold", "colour", "resolution", "angle")
    changes = {k: getattr(arguments, k) for k in names if getattr(arguments, k) is not None}
    config = dataclasses.replace(PRESETS[arguments.preset], **changes)
    if config.resolution < 2:
        raise ValueError(f"--resolution: expected at least 2, got {config.resolution}")
    if not np.isfinite(config.angle):
        raise ValueError(f"--angle: expected a finite number, got {config.angle}")
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
