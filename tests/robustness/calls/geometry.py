"""Calls of metricflow.geometry."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metricflow import geometry as G  # noqa: N812
from tests.robustness.calls.call import (
    Call,
    call,
    complex_numbers,
    like,
    numbers,
    on_hermitian,
    on_symmetric,
    symmetric,
)
from tests.robustness.calls.samples import (
    chart_points,
    field,
    grid,
    grid_metric,
    metric_values,
    points,
    spectral,
    surface,
    torus,
    torus_field,
    torus_metric,
)


def real_metric_of(x: jax.Array) -> jax.Array:
    wave = jnp.sin(x)
    return jnp.eye(len(x), dtype=x.dtype) * (2 + jnp.cos(x[0])) + jnp.outer(wave, wave) / 2


def kaehler_metric_of(x: jax.Array) -> jax.Array:
    """Of the potential |x|^2 + |x|^4 / 4, bent."""
    size = jnp.sum(jnp.abs(x) ** 2)
    bend = jnp.outer(x.conj(), x) / 2
    return jnp.eye(len(x), dtype=x.dtype) * (1 + size / 2) + bend


def function_of(x: jax.Array) -> jax.Array:
    return jnp.sin(jnp.sum(jnp.abs(x) ** 2)) + jnp.sum(x.real) ** 3


def mixed(z: jax.Array) -> jax.Array:
    """Neither holomorphic nor antiholomorphic."""
    return jnp.stack([jnp.sum(z**2 * z.conj()), jnp.sum(z) * jnp.sum(jnp.abs(z) ** 2)])


def reference() -> G.FubiniStudyMetric:
    return G.FubiniStudyMetric(surface())


def at_points(function: Callable) -> Call:
    return call(lambda z: function(surface(), z, points().chart), points().z)


def with_metric(function: Callable, **options: object) -> Callable[[], Call]:
    """A function of a metric and points, for a metric with curvature of its own."""

    def moved(z: jax.Array) -> jax.Array:
        here = G.points_at(surface(), z, chart=points().chart, check=False)
        return function(like(spectral(), z), here)

    return lambda: call(moved, points().z, **options)  # type: ignore[arg-type]


def on_grid(function: Callable, *more: Callable) -> Callable[[], Call]:
    def made() -> Call:
        function_of_g = on_symmetric(lambda g, *rest: function(grid(), g, *rest))
        return call(function_of_g, grid_metric(), *[make() for make in more], rough=5)

    return made


def grid_tensor() -> jax.Array:
    return grid().random_field(jax.random.key(12), 1, entries=(2, 2))


def grid_vector() -> jax.Array:
    return grid().random_field(jax.random.key(13), 1, entries=(2,))


def on_matrix(function: Callable, **skip: str) -> Callable[[], Call]:
    return lambda: call(on_hermitian(function), metric_values(), **skip)  # type: ignore[arg-type]


def line() -> jax.Array:
    return jnp.array([0, 0, 1, 1, 2])


CALLS: dict[str, Callable[[], Call]] = {
    "FubiniStudyMetric": lambda: call(lambda z: reference()(z, points().chart), points().z),
    "FubiniStudyMetric.chart": lambda: call(reference().chart, points().z, grad="integers"),
    "KaehlerTorus.slopes": lambda: call(torus().slopes, torus_field()),
    "KaehlerTorus.hessians": lambda: call(torus().hessians, torus_field()),
    "KaehlerTorus.metric": lambda: call(torus().metric, torus_field()),
    "KaehlerTorus.volume_ratio": lambda: call(on_hermitian(torus().volume_ratio), torus_metric()),
    "KaehlerTorus.laplacian": lambda: call(
        on_hermitian(torus().laplacian), torus_metric(), torus_field()
    ),
    "KaehlerTorus.ricci": lambda: call(on_hermitian(torus().ricci), torus_metric(), rough=5),
    "KaehlerTorus.ricci_scalar": lambda: call(
        on_hermitian(torus().ricci_scalar), torus_metric(), rough=5
    ),
    "KaehlerTorus.slope_squared": lambda: call(
        on_hermitian(torus().slope_squared), torus_metric(), torus_field()
    ),
    "KaehlerTorus.double_divergence": lambda: call(
        on_hermitian(torus().double_divergence), torus_metric()
    ),
    "PeriodicGrid.derivative": lambda: call(lambda f: grid().derivative(f, 1), field()),
    "PeriodicGrid.gradient": lambda: call(grid().gradient, field()),
    "PeriodicGrid.laplacian": lambda: call(grid().laplacian, field()),
    "PeriodicGrid.multiply": lambda: call(
        lambda f: grid().multiply(f, lambda square: jnp.exp(-square)), field()
    ),
    "PeriodicGrid.smooth": lambda: call(grid().smooth, field()),
    "PeriodicGrid.mean": lambda: call(grid().mean, field() + 1),
    "PeriodicGrid.integral": lambda: call(grid().integral, field() + 1),
    "PeriodicGrid.points": lambda: call(
        lambda one: grid().points(one.dtype), numbers(0, 2), grad="constant"
    ),
    "PeriodicGrid.random_field": lambda: call(
        lambda key, one: grid().random_field(key, 1, dtype=one.dtype),
        jax.random.key(0),
        numbers(0, 2),
        grad="random",
        single="random",
    ),
    "antiholomorphic_derivative": lambda: call(
        lambda z, v: G.antiholomorphic_derivative(mixed, z, v),
        complex_numbers(1, 3),
        complex_numbers(2, 3),
    ),
    "best_chart": lambda: call(lambda z: G.best_chart(surface(), z), points().z, grad="integers"),
    "chart_coordinates": lambda: call(
        lambda z: G.chart_coordinates(z, points().chart), 2 * points().z
    ),
    "christoffel": lambda: call(lambda x: G.christoffel(real_metric_of, x), numbers(3, 3)),
    "covariant_derivative": on_grid(G.covariant_derivative, grid_tensor),
    "euler_density": with_metric(G.euler_density, rough=20),
    "euler_number": with_metric(G.euler_number, rough=20),
    "fubini_study_determinant": lambda: call(
        lambda z: G.fubini_study_determinant(surface(), z, points().chart[:, 1]), points().z
    ),
    "fubini_study_distance": lambda: call(
        G.fubini_study_distance, complex_numbers(1, 4, 3), complex_numbers(2, 4, 3)
    ),
    "fubini_study_metric": lambda: call(G.fubini_study_metric, points()),
    "gradient": lambda: call(lambda z: G.gradient(surface(), z), points().z),
    "grid_christoffel": on_grid(G.grid_christoffel),
    "grid_hessian": on_grid(G.grid_hessian, field),
    "grid_laplacian": on_grid(G.grid_laplacian, field),
    "grid_ricci": on_grid(G.grid_ricci),
    "grid_riemann": on_grid(G.grid_riemann),
    "grid_scalar": on_grid(G.grid_scalar),
    "hermitian_determinant": on_matrix(G.hermitian_determinant),
    "hermitian_frame": on_matrix(G.hermitian_frame),
    "hermitian_inverse": on_matrix(G.hermitian_inverse),
    "hermitian_pack": on_matrix(G.hermitian_pack),
    "hermitian_pivots": on_matrix(G.hermitian_pivots),
    "hermitian_root": on_matrix(G.hermitian_root),
    "hermitian_unpack": lambda: call(G.hermitian_unpack, numbers(1, 4, 9)),
    "holomorphic_derivative": lambda: call(
        lambda z, v: G.holomorphic_derivative(mixed, z, v),
        complex_numbers(1, 3),
        complex_numbers(2, 3),
    ),
    "holomorphic_volume": lambda: at_points(G.holomorphic_volume),
    "kaehler_christoffel": lambda: call(
        lambda x: G.kaehler_christoffel(kaehler_metric_of, x), complex_numbers(4, 2, scale=0.3)
    ),
    "kaehler_laplacian": lambda: call(
        lambda x: G.kaehler_laplacian(kaehler_metric_of, function_of, x),
        complex_numbers(4, 2, scale=0.3),
    ),
    "kaehler_ricci": lambda: call(
        lambda x: G.kaehler_ricci(kaehler_metric_of, x), complex_numbers(4, 2, scale=0.3)
    ),
    "kaehler_riemann": lambda: call(
        lambda x: G.kaehler_riemann(kaehler_metric_of, x), complex_numbers(4, 2, scale=0.3)
    ),
    "kaehler_scalar": lambda: call(
        lambda x: G.kaehler_scalar(kaehler_metric_of, x), complex_numbers(4, 2, scale=0.3)
    ),
    "laplacian": lambda: call(lambda x: G.laplacian(real_metric_of, function_of, x), numbers(3, 3)),
    "lichnerowicz": on_grid(
        lambda one, g, h: G.lichnerowicz(one, g, symmetric(h), ricci_terms=True), grid_tensor
    ),
    "lie_derivative": on_grid(G.lie_derivative, grid_vector),
    "local_metric": lambda: call(_local_metric, points().z[0]),
    "local_point": lambda: call(_local_point, points().z[0]),
    "mean_over_lines": lambda: call(lambda v: G.mean_over_lines(v, line()), numbers(1, 5)),
    "nearest_neighbour": lambda: call(
        G.nearest_neighbour, complex_numbers(1, 4, 3), complex_numbers(2, 6, 3)
    ),
    "neighbour_chart": lambda: call(
        lambda z: G.neighbour_chart(surface(), z, points().chart), points().z, grad="integers"
    ),
    "pairwise_distance": lambda: call(
        G.pairwise_distance, complex_numbers(1, 4, 3), complex_numbers(2, 6, 3)
    ),
    "permute_to_chart": lambda: call(
        lambda z: G.permute_to_chart(z, points().chart, (0, 3)), points().z
    ),
    "perturb_points": lambda: call(
        lambda key, z, scale: G.perturb_points(
            key, surface(), G.points_at(surface(), z, chart=points().chart, check=False), scale
        ),
        jax.random.key(0),
        points().z,
        jnp.float64(0.1),
        single="random",
    ),
    "points_at": lambda: call(
        lambda z: G.points_at(surface(), z, chart=points().chart), points().z
    ),
    "polynomial": lambda: call(lambda z: G.polynomial(surface(), z), 1.3 * points().z + 0.1),
    "project_to_hypersurface": lambda: call(
        lambda z: G.project_to_hypersurface(surface(), z), points().z + 0.01
    ),
    "pullback": lambda: at_points(G.pullback),
    "real_derivatives": lambda: call(
        lambda z, j: G.real_derivatives(lambda w: jnp.abs(w) ** 2 + w.real, z, j),
        points().z,
        points().pullback,
    ),
    "real_metric": lambda: call(lambda y: G.real_metric(kaehler_metric_of)(y), numbers(5, 4) / 3),
    "residual": lambda: call(lambda z: G.residual(surface(), z), points().z + 0.1),
    "ricci": lambda: call(lambda x: G.ricci(real_metric_of, x), numbers(3, 3)),
    "ricci_linearisation": on_grid(
        lambda one, g, h: G.ricci_linearisation(one, g, symmetric(h)), grid_tensor
    ),
    "ricci_scalar": with_metric(G.ricci_scalar, rough=20),
    "riemann": lambda: call(lambda x: G.riemann(real_metric_of, x), numbers(3, 3)),
    "riemann_on_hypersurface": with_metric(G.riemann_on_hypersurface, rough=20),
    "sample_points": lambda: call(
        lambda key, one: G.sample_points(key, surface(), 4, dtype=one.dtype),
        jax.random.key(0),
        numbers(0, 2),
        grad="random",
        single="random",
    ),
    "sample_points_in_chart": lambda: call(
        lambda key, one: G.sample_points_in_chart(key, surface(), 4, dtype=one.dtype),
        jax.random.key(0),
        numbers(0, 2),
        grad="random",
        single="random",
    ),
    "scalar_curvature": lambda: call(
        lambda x: G.scalar_curvature(real_metric_of, x), numbers(3, 3)
    ),
    "squared_distance": lambda: call(
        G.squared_distance, complex_numbers(1, 4, 3), complex_numbers(2, 4, 3)
    ),
    "transition": lambda: call(
        lambda z: G.transition(surface(), z, (0, 3), (1, 2)), chart_points().z
    ),
    "variance_over_lines": lambda: call(lambda v: G.variance_over_lines(v, line()), numbers(1, 5)),
    "volume_slope_squared": with_metric(
        lambda metric, here: G.volume_slope_squared(metric, surface(), here), rough=50
    ),
}


def _local_metric(z: jax.Array) -> tuple:
    function, x = G.local_metric(like(spectral(), z), surface(), z, points().chart[0])
    return function(x), x


def _local_point(z: jax.Array) -> jax.Array:
    scaled, eliminated = np.asarray(points().chart)[0]  # numbers while z is traced
    chart = (int(scaled), int(eliminated))
    others = [k for k in range(4) if k not in chart]
    point = G.local_point(surface(), z, chart)
    return point(z[jnp.array(others)] + 0.01)


NOT_APPLICABLE = {
    "EulerNumber": "record",
    "Hypersurface": "record",
    "KaehlerTorus": "record",
    "NearestNeighbour": "record",
    "PeriodicGrid": "record",
    "Points": "record",
    "dwork": "host",
    "fermat": "host",
    "fubini_study_volume": "host",
    "home_chart": "host",
    "hypersurface": "host",
    "phase_symmetries": "host",
    "random_hypersurface": "host",
}
