"""Calls of metricflow.energies."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metricflow import energies as E  # noqa: N812
from metricflow import geometry
from tests.robustness.calls.call import (
    Call,
    call,
    hermitian,
    like,
    numbers,
    on_hermitian,
    on_symmetric,
)
from tests.robustness.calls.samples import (
    component_model,
    component_parameters,
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


def eta() -> jax.Array:
    return jnp.exp(numbers(1, 6, scale=0.3))


def weight() -> jax.Array:
    return jnp.exp(numbers(2, 6, scale=0.3))


def scalar() -> jax.Array:
    return numbers(3, 6)


def reference() -> jax.Array:
    return geometry.fubini_study_metric(points())


def on_torus(function: Callable, *more: Callable) -> Callable[[], Call]:
    def made() -> Call:
        moved = on_hermitian(lambda g, *rest: function(torus(), g, *rest))
        return call(moved, torus_metric(), *[make() for make in more], rough=20)

    return made


def on_grid(function: Callable, make: Callable = field) -> Callable[[], Call]:
    return lambda: call(
        on_symmetric(lambda g, f: function(grid(), g, f)), grid_metric(), make(), rough=5
    )


def pair(function: Callable) -> Callable[[], Call]:
    """Of a metric and the reference."""

    def moved(g: jax.Array, h: jax.Array) -> jax.Array:
        return function(hermitian(g), hermitian(h))

    return lambda: call(moved, metric_values(), reference())


def sigma(function: Callable, **options: object) -> Callable[[], Call]:
    """Of a metric, |Omega|^2 and kappa."""

    def moved(g: jax.Array, omega2: jax.Array, kappa: jax.Array) -> jax.Array:
        return function(hermitian(g), omega2, kappa, **options)

    return lambda: call(moved, metric_values(), points().omega2, jnp.float64(0.1))


def whole_energy(parameters: object, z: jax.Array) -> tuple:
    here = geometry.points_at(surface(), z, chart=points().chart, check=False)
    energy = E.Energy(kaehler=0.5, transition=0.3, volume=0.2, power=2.0)
    return energy(component_model(), parameters, component_model().prepare(here))


def positive_measure() -> jax.Array:
    return jnp.exp(0.1 * field())


CALLS: dict[str, Callable[[], Call]] = {
    "ConvexFunction.value": lambda: call(E.ENTROPY.value, eta()),
    "ConvexFunction.slope": lambda: call(E.ENTROPY.slope, eta()),
    "ConvexFunction.curvature": lambda: call(E.ENTROPY.curvature, eta()),
    "Energy": lambda: call(whole_energy, component_parameters(), points().z, rough=5),
    "calabi_energy": lambda: call(E.calabi_energy, scalar(), eta(), weight()),
    "calabi_variation": on_torus(E.calabi_variation),
    "einstein_hilbert_energy": lambda: call(E.einstein_hilbert_energy, scalar(), weight()),
    "einstein_hilbert_variation": on_torus(E.einstein_hilbert_variation),
    "entropy": lambda: call(E.entropy, eta()),
    "fixed_measure_velocity": on_grid(E.fixed_measure_velocity, positive_measure),
    "hellinger": lambda: call(E.hellinger, eta()),
    "j_functional": lambda: call(
        lambda r, h, p, c, v, w: E.j_functional(hermitian(r), hermitian(h), p, hermitian(c), v, w),
        reference(),
        metric_values() - reference(),
        numbers(1, 5),
        reference(),
        jnp.exp(numbers(2, 5)),
        jnp.exp(numbers(3, 5)),
    ),
    "j_variation": on_torus(
        lambda one, g, chi: E.j_variation(one, g, hermitian(chi)),
        lambda: torus().metric(0.05 * torus_field(3)),
    ),
    "kaehler_loss": lambda: call(
        lambda s, r: E.kaehler_loss(s, hermitian(r), power=2.0), numbers(1, 5, 4, 4), reference()
    ),
    "kaehler_perelman_functional": lambda: call(
        E.kaehler_perelman_functional, scalar(), eta(), weight()
    ),
    "mabuchi_energy": lambda: call(E.mabuchi_energy, eta(), weight()),
    "monge_ampere_residuals": lambda: call(
        lambda g, w: E.monge_ampere_residuals(hermitian(g), points_with(w)),
        metric_values(),
        points().weight,
    ),
    "perelman_functional": on_grid(E.perelman_functional),
    "perelman_rate": on_grid(E.perelman_rate),
    "perelman_variation": on_grid(E.perelman_variation),
    "printed_two_derivative_variation": on_torus(E.printed_two_derivative_variation),
    "ricci_loss": lambda: call(
        lambda z: E.ricci_loss(
            like(spectral(), z),
            geometry.points_at(surface(), z, chart=points().chart, check=False),
            power=2.0,
        ),
        points().z,
        rough=50,
    ),
    "sigma_energy": lambda: call(
        lambda c, w: E.sigma_energy(c, points().omega2.astype(c.dtype), w, 0.1),
        geometry.hermitian_pack(metric_values()),
        points().weight,
    ),
    "sigma_loss": sigma(E.sigma_loss, power=2.0),
    "sigma_loss_variation": sigma(E.sigma_loss_variation, power=2.0),
    "square": lambda: call(E.square, eta()),
    "transition_loss": lambda: call(
        lambda a, b, r: E.transition_loss(hermitian(a), hermitian(b), hermitian(r)),
        metric_values(),
        reference(),
        reference(),
    ),
    "two_derivative_energy": lambda: call(E.two_derivative_energy, eta(), weight()),
    "two_derivative_variation": on_torus(E.two_derivative_variation),
    "ultra_local_energy": lambda: call(E.ultra_local_energy, eta(), weight()),
    "ultra_local_variation": on_torus(E.ultra_local_variation),
    "volume_loss": pair(lambda g, h: E.volume_loss(g, h, power=2.0)),
    "volume_ratio_eta": sigma(E.volume_ratio_eta),
    "weighted_volume": on_grid(E.weighted_volume),
}


def points_with(weight: jax.Array) -> geometry.Points:
    return points()._replace(weight=weight, omega2=points().omega2.astype(weight.dtype))


NOT_APPLICABLE = {
    "ENTROPY": "constant",
    "GRADIENTS": "constant",
    "HELLINGER": "constant",
    "SQUARE": "constant",
    "TERMS": "constant",
    "ConvexFunction": "record",
    "ConvexFunction.check": "host",
}
