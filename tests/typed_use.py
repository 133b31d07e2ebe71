"""What users write, seen by mypy in CI: right calls pass, and each wrong one has to be found.

An error that mypy no longer finds makes its ``ignore`` unused, which is an error itself.
"""

from typing import assert_type

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from metricflow import diagnostics, geometry, kernels, lne_gradient, records, save_metric
from metricflow.ansatz import SpectralMetric
from metricflow.flows import KernelFlow, KernelFlowInfo, KernelFlowState


def right() -> None:
    """A metric, how good it is, and a flow."""
    metric = records.calabi_yau_metric("fermat_quintic")
    assert_type(metric, SpectralMetric)
    points = geometry.sample_points(jax.random.key(0), metric.manifold, 100)
    assert_type(points, geometry.Points)
    g = metric(points.z)
    assert_type(g, Array)
    assert_type(diagnostics.diagnose(metric, points).sigma, float)
    assert_type(geometry.hermitian_pack(g), Array)
    assert_type(records.names(), tuple[str, ...])
    save_metric("metric.npz", metric, provenance={"seed": 0})

    train = geometry.sample_points_in_chart(jax.random.key(1), metric.manifold, 10)
    flow = KernelFlow(kernels.Gaussian(0.4), step_size=0.1)
    state = flow.init(train)
    assert_type(state, KernelFlowState)
    assert_type(flow.step(state), tuple[KernelFlowState, KernelFlowInfo])
    rule: optax.GradientTransformation = lne_gradient(q=0.5)
    rule.init({"w": jnp.ones(3)})


def wrong(points: geometry.Points) -> None:
    """Every line has one mistake."""
    diagnostics.sigma_measure("g", points)  # type: ignore[arg-type]
    geometry.fermat("quintic")  # type: ignore[arg-type]
    geometry.sample_points(0, geometry.fermat(3), 10)  # type: ignore[arg-type]
    geometry.hermitian_pack()  # type: ignore[call-arg]
    geometry.hermitian_pack(points.z, packed=True)  # type: ignore[call-arg]
    records.calabi_yau_metric(3)  # type: ignore[arg-type]
    del points.weights  # type: ignore[attr-defined]
    KernelFlow(kernels.Gaussian(0.4), step_size="small")  # type: ignore[arg-type]
    KernelFlow(kernels.Gaussian(0.4)).step(points)  # type: ignore[arg-type]
    lne_gradient(inverse="exactly")  # type: ignore[arg-type]
    size: str = diagnostics.sigma_measure(points.pullback, points)  # type: ignore[assignment]
    del size
