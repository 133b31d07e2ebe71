"""Calls of metricflow.flows."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metricflow import ansatz, geometry, kernels
from metricflow import flows as F  # noqa: N812
from tests.robustness.calls.call import Call, call, like, numbers, on_symmetric, symmetric
from tests.robustness.calls.samples import (
    basis,
    chart_points,
    component_model,
    component_parameters,
    features,
    field,
    form,
    free_coordinates,
    grid_metric,
    in_chart,
    many_points,
    points,
    potential_network,
    potential_parameters,
    sections,
    small_network,
    small_parameters,
    spectral,
    surface,
    torus,
    torus_field,
)

LOOP = {"grad": "loop"}


def in_precision(make: Callable) -> Callable:
    """Made once, with the precision that an argument has."""
    made = functools.cache(make)
    return lambda x: like(made(), x)


@in_precision
def linear() -> F.LinearPotential:
    return F.LinearPotential(many_points(), ansatz.basis_hessians(basis(), many_points()))


@in_precision
def tangents() -> F.LinearTangents:
    return F.spectral_tangents(basis(), many_points())


@in_precision
def algebraic() -> F.AlgebraicPotential:
    return F.AlgebraicPotential(points(), ansatz.section_jets(sections(), points()), 1)


def network_potential(x: jax.Array, kind: type = F.NetworkPotential) -> F.NetworkPotential:
    return like(kind(points(), features(), potential_network()), x)


@in_precision
def network_components() -> F.NetworkComponents:
    prepared = component_model().inputs(points().z, geometry.fubini_study_metric(points()))
    return F.NetworkComponents(component_model(), points(), prepared)


def first(tree: object) -> jax.Array:
    return jax.tree.leaves(tree)[0]


def of_parameters(problem: Callable, method: str, parameters: Callable) -> Callable[[], Call]:
    return lambda: call(lambda p: getattr(problem(first(p)), method)(p), parameters(), rough=5)


def coefficients() -> jax.Array:
    return spectral().coefficients


GAUSSIAN = kernels.Gaussian(0.5)
FLOW = F.KernelFlow(GAUSSIAN, step_size=0.05, clip=1.0, normalise_update=True)
# the derivative of a solution is that of the exact one: it has to be found
KERNEL_GN = F.KernelGaussNewton(GAUSSIAN, damping=0.1, tolerance=1e-12)
KAEHLER = F.KaehlerFlow(halvings=0)
RICCI = F.RicciFlow(geometry.PeriodicGrid((5, 5)), gauge="deturck")
SPHERE = F.RotationalRicciFlow(dim=3, points=8)


def torus_flow() -> F.TorusKaehlerFlow:
    return F.TorusKaehlerFlow(torus(), width=0.1)


def point_set(free: jax.Array) -> geometry.Points:
    return geometry.points_at(surface(), in_chart(free), chart=(0, 3), check=False)


def kernel_run(free: jax.Array, step: jax.Array) -> tuple:
    """Two steps by hand; sums over points enter through the chart of the training points."""
    flow = dataclasses.replace(FLOW, step_size=step)
    state = start(free)
    state, _ = flow.step(state)
    state, info = flow.step(state)
    return state._replace(operator=None), info  # its width is a number without precision


def start(free: jax.Array) -> F.KernelFlowState:
    held = like(chart_points(), free)
    z = in_chart(free)
    return FLOW.init(held)._replace(operator=FLOW.operator(z, z))


def without_operator(state: F.KernelGaussNewtonState) -> F.KernelGaussNewtonState:
    return state._replace(flow=state.flow._replace(operator=None))


@functools.cache
def kernel_state() -> F.KernelFlowState:
    return FLOW.init(chart_points())


def kernel_metric(coefficient: jax.Array, z: jax.Array) -> jax.Array:
    state = like(kernel_state(), z)._replace(coefficients=coefficient)
    return FLOW.metric(surface(), state)(z, (0, 3))


def network_flow() -> F.NetworkFlow:
    return F.NetworkFlow(small_network(), lambda values: jnp.sum(jnp.sin(values)), 0.1)


def sphere(bump: jax.Array) -> F.RotationalRicciState:
    x = SPHERE.coordinates(bump.dtype)
    stretch = jnp.exp(bump * jnp.sin(x) ** 2)
    return SPHERE.init(stretch**2, jnp.sin(x) * stretch)


def bump() -> jax.Array:
    return jnp.float64(0.1)


def fitted(p: jax.Array) -> tuple:
    return F.GaussNewton(damping=0.1, halvings=0).step(
        F.GaussNewton(damping=0.1).init(p), linear(p)
    )


def velocity(x: jax.Array) -> jax.Array:
    return -x * jnp.abs(x)


def solve(right: jax.Array, c: jax.Array) -> jax.Array:
    return right / (1 + c)


def stepped(function: Callable) -> Callable[[], Call]:
    return lambda: call(
        lambda x, dt: function(velocity, solve, x, dt), numbers(1, 4), jnp.float64(0.1)
    )


def backwards(g: jax.Array, final: jax.Array) -> jax.Array:
    metrics = jnp.stack([symmetric(g) * (1 + 0.01 * k) for k in range(3)])
    return F.conjugate_heat(RICCI, metrics, final, 0.001)


def slope() -> jax.Array:
    return numbers(2, 5, 2)


def inputs() -> jax.Array:
    return numbers(1, 5, 3)


CALLS: dict[str, Callable[[], Call]] = {
    "AlgebraicPotential.metric": of_parameters(algebraic, "metric", form),
    "AlgebraicPotential.residuals": of_parameters(algebraic, "residuals", form),
    # the loss is not known yet: infinity
    "GaussNewton.init": lambda: call(
        lambda p: F.GaussNewton(damping=0.1).init(p)._replace(loss=0), coefficients()
    ),
    "GaussNewton.step": lambda: call(fitted, coefficients(), rough=20, **LOOP),
    "KaehlerFlow.init": lambda: call(KAEHLER.init, coefficients()),
    "KaehlerFlow.energy": lambda: call(
        lambda p: KAEHLER.energy(tangents(p), p), coefficients(), rough=5
    ),
    "KaehlerFlow.velocity": lambda: call(
        lambda p: KAEHLER.velocity(tangents(p), p), coefficients(), rough=20
    ),
    "KaehlerFlow.step": lambda: call(
        lambda p, dt: KAEHLER.step(KAEHLER.init(p), tangents(p), dt),
        coefficients(),
        jnp.float64(0.05),
        rough=20,
        **LOOP,
    ),
    "KaehlerFlow.info": lambda: call(
        lambda p: KAEHLER.info(KAEHLER.init(p), tangents(p)), coefficients(), rough=5
    ),
    "KaehlerFlow.rates": lambda: call(
        lambda p: KAEHLER.rates(tangents(p), p), coefficients(), rough=20
    ),
    "KernelFlow.init": lambda: call(
        lambda free: (*start(free)[2:5], start(free).operator @ start(free).g.real[:, 0]),
        free_coordinates(),
    ),
    "KernelFlow.step": lambda: call(kernel_run, free_coordinates(), jnp.float64(0.05), rough=5),
    "KernelFlow.operator": lambda: call(
        lambda free, v: FLOW.operator(in_chart(free), in_chart(free), dense=True) @ v,
        free_coordinates(),
        numbers(1, len(free_coordinates()), 4),
    ),
    "KernelFlow.metric": lambda: call(
        kernel_metric, numbers(1, len(free_coordinates()), 4, scale=0.01), chart_points().z
    ),
    "KernelMetric": lambda: call(
        kernel_metric, numbers(1, len(free_coordinates()), 4, scale=0.01), chart_points().z
    ),
    "KernelMetric.chart": lambda: call(
        lambda z: FLOW.metric(surface(), like(kernel_state(), z)).chart(z),
        points().z,
        grad="integers",
    ),
    "KernelGaussNewton.init": lambda: call(
        lambda w: without_operator(KERNEL_GN.init(like(chart_points(), w)._replace(weight=w))),
        chart_points().weight,
    ),
    "KernelGaussNewton.step": lambda: call(
        lambda w: without_operator(
            KERNEL_GN.step(KERNEL_GN.init(like(chart_points(), w)._replace(weight=w)))[0]
        ),
        chart_points().weight,
        rough=50,
        **LOOP,
    ),
    "LinearPotential.jacobian": of_parameters(linear, "jacobian", coefficients),
    "LinearPotential.metric": of_parameters(linear, "metric", coefficients),
    "LinearPotential.residuals": of_parameters(linear, "residuals", coefficients),
    "LinearTangents.metric": of_parameters(tangents, "metric", coefficients),
    "LinearTangents.tangents": lambda: call(
        lambda p: tangents(p).tangents(p), coefficients(), grad="constant"
    ),
    "NetworkComponents.metric": of_parameters(network_components, "metric", component_parameters),
    "NetworkComponents.residuals": of_parameters(
        network_components, "residuals", component_parameters
    ),
    "NetworkFlow.init": lambda: call(network_flow().init, small_parameters()),
    "NetworkFlow.step": lambda: call(
        lambda p, x: network_flow().step(network_flow().init(p), x), small_parameters(), inputs()
    ),
    "NetworkFlow.values": lambda: call(network_flow().values, small_parameters(), inputs()),
    "NetworkPotential.jacobian": of_parameters(network_potential, "jacobian", potential_parameters),
    "NetworkPotential.metric": of_parameters(network_potential, "metric", potential_parameters),
    "NetworkPotential.residuals": of_parameters(
        network_potential, "residuals", potential_parameters
    ),
    "NetworkTangents.tangents": of_parameters(
        lambda x: network_potential(x, F.NetworkTangents), "tangents", potential_parameters
    ),
    "RicciFlow.init": lambda: call(on_symmetric(RICCI.init), grid_metric()),
    "RicciFlow.velocity": lambda: call(on_symmetric(RICCI.velocity), grid_metric(), rough=5),
    "RicciFlow.vector": lambda: call(on_symmetric(RICCI.vector), grid_metric(), rough=5),
    "RicciFlow.largest_step": lambda: call(on_symmetric(RICCI.largest_step), grid_metric()),
    "RicciFlow.step": lambda: call(
        lambda g, dt: RICCI.step(RICCI.init(g), dt), grid_metric(), jnp.float64(0.01), rough=5
    ),
    "RotationalRicciFlow.coordinates": lambda: call(
        lambda x: SPHERE.coordinates(x.dtype), numbers(0, 2), grad="constant"
    ),
    "RotationalRicciFlow.init": lambda: call(sphere, bump()),
    "RotationalRicciFlow.metric": lambda: call(lambda b: SPHERE.metric(sphere(b)), bump()),
    "RotationalRicciFlow.curvatures": lambda: call(
        lambda b: SPHERE.curvatures(sphere(b)), bump(), rough=20
    ),
    "RotationalRicciFlow.velocity": lambda: call(
        lambda b: SPHERE.velocity(sphere(b).a, sphere(b).b), bump(), rough=20
    ),
    "RotationalRicciFlow.largest_step": lambda: call(
        lambda b: SPHERE.largest_step(sphere(b)), bump(), rough=20
    ),
    "RotationalRicciFlow.step": lambda: call(lambda b: SPHERE.step(sphere(b)), bump(), rough=20),
    "TorusKaehlerFlow.init": lambda: call(lambda phi: torus_flow().init(0.1 * phi), torus_field()),
    "TorusKaehlerFlow.velocity": lambda: call(
        lambda phi: torus_flow().velocity(0.1 * phi), torus_field(), rough=5
    ),
    "TorusKaehlerFlow.step": lambda: call(
        lambda phi, dt: torus_flow().step(torus_flow().init(0.1 * phi), dt),
        torus_field(),
        jnp.float64(0.1),
        rough=20,
    ),
    "TorusKaehlerFlow.info": lambda: call(
        lambda phi: torus_flow().info(torus_flow().init(0.1 * phi)), torus_field(), rough=5
    ),
    "conjugate_heat": lambda: call(backwards, grid_metric(), 0.1 * field(), rough=20),
    "held_out_sigma": lambda: call(
        lambda c: F.held_out_sigma(FLOW, like(kernel_state(), c), like(chart_points(), c))(
            like(kernel_state(), c)._replace(coefficients=c)
        ),
        numbers(1, len(free_coordinates()), 4, scale=0.01),
        vmap="host",
        jit="host",
    ),
    "implicit_euler_step": stepped(F.implicit_euler_step),
    "measure_velocity": lambda: call(
        on_symmetric(lambda g, f: F.measure_velocity(RICCI, g, jnp.exp(0.1 * f))),
        grid_metric(),
        field(),
        rough=5,
    ),
    "metric_velocity": lambda: call(
        lambda p, x, b, s: F.metric_velocity(small_network(), p, x, b, s),
        small_parameters(),
        numbers(3, 4, 3),
        inputs(),
        slope(),
    ),
    "parameter_velocity": lambda: call(
        lambda p, x, s: F.parameter_velocity(small_network(), p, x, s),
        small_parameters(),
        inputs(),
        slope(),
    ),
    "rosenbrock_step": stepped(F.rosenbrock_step),
    "runge_kutta_step": lambda: call(
        lambda x, dt: F.runge_kutta_step(velocity, x, dt), numbers(1, 4), jnp.float64(0.1)
    ),
    "spectral_tangents": lambda: call(
        lambda z: (
            F.spectral_tangents(
                basis(), geometry.points_at(surface(), z, chart=points().chart, check=False)
            ).jets
        ),
        points().z,
    ),
    "uniform_equivalence": lambda: call(
        lambda a, b: F.uniform_equivalence(symmetric(a), symmetric(b)),
        grid_metric(),
        grid_metric() ** 2 + jnp.eye(2),
    ),
}

NOT_APPLICABLE = {
    "POTENTIAL_FLOWS": "constant",
    "FlowError": "error",
    "GaussNewton.run": "host",
    "GaussNewtonInfo": "record",
    "GaussNewtonState": "record",
    "KaehlerFlow.run": "host",
    "KaehlerFlowState": "record",
    "KernelFlow.run": "host",
    "KernelFlowInfo": "record",
    "KernelFlowState": "record",
    "KernelGaussNewton.metric": "host",
    "KernelGaussNewton.run": "host",
    "KernelGaussNewtonInfo": "record",
    "KernelGaussNewtonState": "record",
    "LeastSquares": "protocol",
    "LeastSquares.residuals": "protocol",
    "NetworkFlow.run": "host",
    "NetworkFlowInfo": "record",
    "NetworkFlowState": "record",
    "PotentialFlowInfo": "record",
    "Result": "constant",
    "RicciFlow.run": "host",
    "RicciFlowInfo": "record",
    "RicciFlowState": "record",
    "RotationalRicciFlow.run": "host",
    "RotationalRicciInfo": "record",
    "RotationalRicciState": "record",
    "TangentPotential": "protocol",
    "TangentPotential.metric": "protocol",
    "TangentPotential.tangents": "protocol",
    "TorusFlowState": "record",
    "TorusKaehlerFlow.run": "host",
}
for _name in (
    "AlgebraicPotential",
    "GaussNewton",
    "KaehlerFlow",
    "KernelFlow",
    "KernelGaussNewton",
    "LinearPotential",
    "LinearTangents",
    "NetworkComponents",
    "NetworkFlow",
    "NetworkPotential",
    "NetworkTangents",
    "RicciFlow",
    "RotationalRicciFlow",
    "TorusKaehlerFlow",
):
    NOT_APPLICABLE[_name] = "record"
