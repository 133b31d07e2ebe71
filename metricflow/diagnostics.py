"""How good a metric is: the numbers every result of this library reports.

sigma alone says nothing about a metric that is not built from a potential: for n >= 2 any metric
times eta^(-1/n) has sigma = 0.  So sigma stands beside positivity, the Kaehler defect, the chart
mismatch and the volume.  Metrics come as arrays ``g`` of shape (N, n, n), each point in its own
chart, or as callables ``metric(z, chart)`` where derivatives or other charts are needed.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from . import _checks
from ._annotations import Count
from ._checks import AnyArray
from ._front_door import guard, public_functions
from ._jit import jit
from ._pytree import is_opaque
from ._tiles import carrying, map_tiles
from .energies import volume_ratio_eta
from .geometry import (
    Hypersurface,
    Points,
    fubini_study_metric,
    fubini_study_volume,
    gradient,
    hermitian_determinant,
    hermitian_inverse,
    real_derivatives,
    ricci_scalar,
    transition,
    variance_over_lines,
)


@runtime_checkable
class Metric(Protocol):
    """A metric that can be evaluated anywhere: g (..., n, n) at z (..., n+2) in a chart."""

    @property
    def manifold(self) -> Hypersurface:
        """The hypersurface it lives on."""
        ...

    def __call__(self, z: Any, chart: Any = None) -> Array:
        """g[a, b] at z, in ``chart`` or by default in ``chart(z)``."""
        ...

    def chart(self, z: Any) -> Array:
        """The charts (..., 2) that a call uses by default."""
        ...


class Diagnostics(NamedTuple):
    """All diagnostics of a metric; a field that means nothing is None and ``notes`` says why."""

    sigma: float
    sigma_standard_error: float
    gain: float
    gain_unweighted: float
    kaehler_defect: float | None
    chart_mismatch: float | None
    volume_ratio: float
    min_eigenvalue: float
    positive_fraction: float
    mean_abs_ricci: float | None
    notes: dict[str, str]


@jit()
def kappa_estimate(g: Complex[AnyArray, "b n n"], points: Points) -> Float[Array, ""]:
    """kappa = Vol_g / Vol_Omega = sum w (det g / |Omega|^2) / sum w, from these points.

    With it the weighted mean of eta is 1 exactly.

    Source: MF B.10.
    """
    _check(g, points)
    ratio = hermitian_determinant(g) / points.omega2
    return jnp.sum(points.weight * ratio) / jnp.sum(points.weight)


@jit()
def eta(
    g: Complex[AnyArray, "b n n"], points: Points, kappa: Float[Array, ""] | float | None = None
) -> Float[Array, " b"]:
    """eta = det g / (kappa |Omega|^2); kappa is re-estimated on the points unless given.

    Source: MF B.11.
    """
    _check(g, points)
    kappa = kappa_estimate(g, points) if kappa is None else kappa
    return volume_ratio_eta(jnp.asarray(g), jnp.asarray(points.omega2), kappa)


@jit()
def sigma_measure(
    g: Complex[AnyArray, "b n n"], points: Points, *, kappa: Float[Array, ""] | float | None = None
) -> Float[Array, ""]:
    """sigma = sum w |1 - eta| / sum w, the Monte Carlo integral over the Calabi-Yau measure.

    Args:
        g: metric components of shape (N, n, n), each point in its own chart.
        points: the points; for a claim about a metric, points it was not fitted to.
        kappa: Vol_g / Vol_Omega; by default re-estimated on the same points.

    Returns:
        0 for the Calabi-Yau metric of any scale; 0.373 for Fubini-Study on the Fermat quintic.

    Raises:
        ValueError: shapes that do not belong together.

    Source: MF B.11.
    """
    gap = jnp.abs(1 - eta(g, points, kappa))
    return jnp.sum(points.weight * gap) / jnp.sum(points.weight)


@jit()
def sigma_standard_error(g: Complex[AnyArray, "b n n"], points: Points) -> Float[Array, ""]:
    """The standard error of :func:`sigma_measure`, with random lines as the independent units.

    sigma is a ratio of means with kappa inside.  Linearised, each point contributes
    w (|1 - eta| - sigma - c (eta - 1)), c = mean of sign(eta - 1) eta (from kappa); the
    contributions are added up along each line before their variance is taken.
    """
    ratio = eta(g, points)
    weight = points.weight / jnp.sum(points.weight)
    gap = jnp.abs(1 - ratio)
    sigma = jnp.sum(weight * gap)
    response = jnp.sum(weight * jnp.sign(ratio - 1) * ratio)
    influence = weight * (gap - sigma - response * (ratio - 1))
    return jnp.sqrt(variance_over_lines(influence, points.line))


def gain(
    g: Complex[AnyArray, "b n n"],
    points: Points,
    reference: Complex[AnyArray, "b n n"] | None = None,
    *,
    weighted: bool = True,
) -> Float[Array, ""]:
    """sigma(reference) / sigma(g) on the same points; the reference is Fubini-Study by default.

    ``weighted=False`` takes plain means over the sample (kappa still from the weights) and is only
    for comparison with papers that do so.

    Source: MF section 3.2 (the factor gained).
    """
    reference = fubini_study_metric(points) if reference is None else reference
    if weighted:
        return sigma_measure(reference, points) / sigma_measure(g, points)
    return jnp.mean(jnp.abs(1 - eta(reference, points))) / jnp.mean(jnp.abs(1 - eta(g, points)))


@jit()
def volume_ratio(g: Complex[AnyArray, "b n n"], points: Points) -> Float[Array, ""]:
    """Vol(g) / Vol(g_FS), the sample mean of det g / det g_FS (the law of the sample is FS)."""
    _check(g, points)
    reference = fubini_study_metric(points)
    return jnp.mean(hermitian_determinant(g) / hermitian_determinant(reference))


@jit()
def volume_ratio_standard_error(g: Complex[AnyArray, "b n n"], points: Points) -> Float[Array, ""]:
    """The standard error of :func:`volume_ratio`, with random lines as the independent units."""
    _check(g, points)
    ratio = hermitian_determinant(g) / hermitian_determinant(fubini_study_metric(points))
    influence = (ratio - jnp.mean(ratio)) / len(ratio)
    return jnp.sqrt(variance_over_lines(influence, points.line))


@jit()
def relative_eigenvalues(g: Complex[AnyArray, "b n n"], points: Points) -> Float[Array, "b n"]:
    """The eigenvalues of g_FS^-1 g in increasing order, which no choice of chart changes."""
    _check(g, points)
    root = jnp.linalg.cholesky(fubini_study_metric(points))
    half = jax.scipy.linalg.solve_triangular(root, jnp.asarray(g), lower=True)
    whole = jax.scipy.linalg.solve_triangular(root, half.conj().swapaxes(-1, -2), lower=True)
    return jnp.linalg.eigvalsh(whole)


def min_eigenvalue(g: Complex[AnyArray, "b n n"], points: Points) -> Float[Array, ""]:
    """The smallest eigenvalue of g_FS^-1 g over all points."""
    return jnp.min(relative_eigenvalues(g, points))


def positive_fraction(g: Complex[AnyArray, "b n n"], points: Points) -> Float[Array, ""]:
    """The fraction of points at which g is positive definite."""
    smallest = relative_eigenvalues(g, points)[:, 0]
    return jnp.mean((smallest > 0).astype(smallest.dtype))


def kaehler_defect(metric: Metric, points: Points, *, chunk: Count = 256) -> Float[Array, ""]:
    """How far from Kaehler: weighted mean of |d_a g_(b cbar) - d_b g_(a cbar)|_g, made scale-free.

    The norm is the one of g; the mean is multiplied by Vol(g)^(1/2n), so that neither the scale of
    the metric nor the chart matters.  Zero for g = d dbar K, and for n = 1.

    Args:
        metric: a callable metric; it is differentiated along the hypersurface.
        points: the points, in the charts to differentiate in.
        chunk: points differentiated at a time.
    """
    return _compiled(_kaehler_defect, metric)(metric, points, chunk)


def _kaehler_defect(metric: Metric, points: Points, chunk: int) -> Array:
    def at(metric: Metric, tile: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        z, chart, jacobian = tile
        both = real_derivatives(lambda w: metric(w, chart), z, jacobian)
        real, imaginary = jnp.split(both, 2)
        derivative = ((real - 1j * imaginary) / 2).swapaxes(0, 1)
        return metric(z, chart), derivative - derivative.swapaxes(1, 2)

    g, torsion = map_tiles(carrying(at, metric), (points.z, points.chart, points.pullback), chunk)
    inverse = hermitian_inverse(g)
    # with g[a, b] = g_(a bbar), the inverse matrix carries the indices (bbar, a)
    square = jnp.einsum(
        "xabc,xdef,xda,xeb,xcf->x", torsion, torsion.conj(), inverse, inverse, inverse
    ).real
    manifold = metric.manifold
    volume = fubini_study_volume(manifold) * jnp.abs(volume_ratio(g, points))
    mean = jnp.sum(points.weight * jnp.sqrt(jnp.maximum(square, 0))) / jnp.sum(points.weight)
    return mean * volume ** (1 / (2 * manifold.dim))


def chart_mismatch(metric: Metric, points: Points, *, margin: float = 0.5) -> Float[Array, ""]:
    """How much the metric depends on the chart: weighted mean of |g' - T g T^dagger|_g'.

    g is taken in each point's own chart, g' in the other admissible charts: those whose scaled
    coordinate is at least ``margin`` times the largest, and likewise the slope |dP/dz_e| of their
    eliminated coordinate.  Zero for a tensor.  NaN if no point has a second admissible chart.

    Args:
        metric: a callable metric that accepts any chart.
        points: the points.
        margin: between 0 (every chart) and 1 (none).
    """
    return _compiled(_chart_mismatch, metric)(metric, points, margin)


def _chart_mismatch(metric: Metric, points: Points, margin: float) -> Array:
    manifold = metric.manifold
    own = metric(points.z, points.chart)
    size = jnp.abs(points.z)
    slope = jnp.abs(gradient(manifold, points.z))
    # the largest slope among the candidates for elimination, in each point's own chart
    steepest = jnp.take_along_axis(slope, jnp.asarray(points.chart)[:, 1:], axis=1)

    def add(carry: tuple[Array, Array], pair: Array) -> tuple[tuple[Array, Array], None]:
        total, weight = carry
        scaled, eliminated = pair
        other = jnp.broadcast_to(pair, points.chart.shape)
        allowed = (
            (jnp.take(size, scaled, axis=1) >= margin * jnp.max(size, axis=1))
            & (jnp.take(slope, eliminated, axis=1) >= margin * steepest[:, 0])
            & jnp.any(other != points.chart, axis=1)
        )
        here = metric(points.z, other)
        change = transition(manifold, points.z, points.chart, other)
        moved = jnp.einsum("bac,bcd,bed->bae", change, own, change.conj())
        # in a point's own chart the difference is zero, where its norm has no derivative
        difference = jnp.where(allowed[:, None, None], here - moved, here)
        mismatch = _tensor_norm(difference, hermitian_inverse(here))
        used = jnp.where(allowed, points.weight, 0)
        total = total + jnp.sum(jnp.where(allowed, used * mismatch, 0))
        return (total, weight + jnp.sum(used)), None

    pairs = jnp.array(list(itertools.permutations(range(manifold.ambient), 2)))
    zero = jnp.zeros((), size.dtype)
    (total, weight), _ = jax.lax.scan(add, (zero, zero), pairs)
    return total / weight


def mean_abs_ricci(metric: Metric, points: Points, *, chunk: Count = 64) -> Float[Array, ""]:
    """Vol(g)^(1/n) times the weighted mean of |g^(ab) R_ab|, which no scale of g changes."""
    g = metric(points.z, points.chart)
    volume = fubini_study_volume(metric.manifold) * jnp.abs(volume_ratio(g, points))
    scalar = jnp.abs(ricci_scalar(metric, points, chunk=chunk))
    mean = jnp.sum(points.weight * scalar) / jnp.sum(points.weight)
    return volume ** (1 / metric.manifold.dim) * mean


def diagnose(
    metric: Metric,
    points: Points,
    *,
    derivative_points: int = 2000,
    curvature_points: int = 0,
    g: Complex[Array, "b n n"] | None = None,
) -> Diagnostics:
    """Every diagnostic of a callable metric on points it was not fitted to.

    A metric may carry ``without_kaehler_defect`` or ``without_chart_mismatch``: a sentence that
    says why the number would mean nothing; the field is then None.

    Args:
        metric: the callable metric.
        points: held-out points.
        derivative_points: the Kaehler defect and the chart mismatch use the first so many points.
        curvature_points: and the Ricci measure so many, each of which costs about twenty metrics;
            none by default.
        g: the metric at the points, if it has been computed already.
    """
    g = metric(points.z, points.chart) if g is None else g
    _checks.finite("metric", g)
    few = jax.tree.map(lambda x: x[:derivative_points], points)
    measures: dict[str, Callable[[Metric, Points], Array]] = {
        "kaehler_defect": kaehler_defect,
        "chart_mismatch": chart_mismatch,
    }
    found: dict[str, float | None] = {}
    notes = {}
    for name, measure in measures.items():
        reason = getattr(metric, f"without_{name}", None)
        found[name] = None if reason else float(measure(metric, few))
        if name == "chart_mismatch" and found[name] != found[name]:  # NaN
            found[name], reason = None, "no point has a second admissible chart"
        if found[name] != found[name]:
            raise ValueError(f"metric: its {name} is NaN: a derivative does not exist somewhere")
        if reason:
            notes[name] = reason
    ricci, reason = None, getattr(metric, "without_kaehler_defect", None)
    if not curvature_points:
        reason = "not computed, see curvature_points"
    if reason:
        notes["mean_abs_ricci"] = reason
    else:
        few = jax.tree.map(lambda x: x[:curvature_points], points)
        ricci = float(mean_abs_ricci(metric, few))
    eigenvalues = relative_eigenvalues(g, points)
    return Diagnostics(
        sigma=float(sigma_measure(g, points)),
        sigma_standard_error=float(sigma_standard_error(g, points)),
        gain=float(gain(g, points)),
        gain_unweighted=float(gain(g, points, weighted=False)),
        kaehler_defect=found["kaehler_defect"],
        chart_mismatch=found["chart_mismatch"],
        volume_ratio=float(volume_ratio(g, points)),
        min_eigenvalue=float(jnp.min(eigenvalues)),
        positive_fraction=float(jnp.mean((eigenvalues[:, 0] > 0).astype(eigenvalues.dtype))),
        mean_abs_ricci=ricci,
        notes=notes,
    )


def _compiled(function: Callable[..., Array], metric: Metric) -> Callable[..., Array]:
    """``function`` jitted if the metric is a pytree, so that a second call does not compile."""
    return function if is_opaque(metric) else _jitted(function)


@functools.cache
def _jitted(function: Callable[..., Array]) -> Callable[..., Array]:
    return jax.jit(function, static_argnums=2)


def _tensor_norm(h: Array, inverse: Array) -> Array:
    """|h|_g = sqrt(tr(g^-1 h g^-1 h)) of Hermitian h."""
    product = jnp.einsum("...ab,...bc->...ac", inverse, h)
    square = jnp.einsum("...ab,...ba->...", product, product).real
    return jnp.sqrt(jnp.maximum(square, 0))


def _check(g: AnyArray, points: Points) -> None:
    expected = (*points.weight.shape, points.pullback.shape[-2], points.pullback.shape[-2])
    if g.shape != expected:
        raise ValueError(
            f"g: expected metric components of shape {expected} for these points, got {g.shape}"
        )
    if len(points.weight) == 0:
        raise ValueError("points: expected at least one point, got none")


guard(globals(), tuple(public_functions(globals())))
