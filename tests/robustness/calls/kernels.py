"""Calls of metricflow.kernels."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metricflow import ansatz, geometry
from metricflow import kernels as K  # noqa: N812
from tests.robustness.calls.call import Call, call, complex_numbers, like, numbers
from tests.robustness.calls.samples import (
    HOME,
    basis,
    component_model,
    component_parameters,
    free_coordinates,
    in_chart,
    many_points,
    small_network,
    small_parameters,
    surface,
)


def z1() -> jax.Array:
    return complex_numbers(1, 4, 3)


def z2() -> jax.Array:
    return complex_numbers(2, 5, 3)


def x1() -> jax.Array:
    return numbers(1, 4, 3)


def x2() -> jax.Array:
    return numbers(2, 5, 3)


def values() -> jax.Array:
    return numbers(3, 5, 2)


def on_points(method: Callable, **skip: str) -> Callable[[], Call]:
    """A kernel of homogeneous coordinates and of its width."""
    return lambda: call(
        lambda a, b, width: method(width)(a, b), z1(), z2(), jnp.float64(0.7), **skip
    )


def on_vectors(method: Callable) -> Callable[[], Call]:
    return lambda: call(lambda a, b, width: method(width)(a, b), x1(), x2(), jnp.float64(0.7))


def cosine() -> ansatz.CosineNetwork:
    return ansatz.CosineNetwork(6)


def cosine_parameters() -> object:
    return cosine().init(jax.random.key(1), x1()[0])


def frozen(scale: jax.Array) -> K.FrozenNTK:
    parameters = jax.tree.map(lambda x: x.astype(scale.dtype), component_parameters())
    return K.FrozenNTK(component_model(), parameters, HOME, scale)


@functools.cache
def frame() -> K.HessianFrame:
    return K.hessian_frame(surface(), basis(), many_points(), chart=HOME)


def root_frame() -> K.RootFrame:
    return K.RootFrame(surface(), HOME)


def tensor_kernel(x: jax.Array) -> K.TensorKernel:
    return like(K.TensorKernel(K.SquaredExponential(3.0), frame()), x)


def components() -> jax.Array:
    return numbers(4, len(free_coordinates()), 4)


def theta() -> jax.Array:
    """Of a random network with two outputs: (5, 5, 2, 2)."""
    return K.metric_ntk(small_network(), small_parameters(), x2())


def rectangular() -> jax.Array:
    return K.metric_ntk(small_network(), small_parameters(), x2(), x1())


def gaussian() -> K.SquaredExponential:
    return K.SquaredExponential(1.5)


def fitted(x: jax.Array, y: jax.Array, at: jax.Array) -> jax.Array:
    return K.kernel_regression(gaussian(), x, y, time=2.0)(at)


def at_origin(function: Callable) -> Callable:
    return lambda p, *rest: function(small_network(), p, *rest)


def spectrum(x: jax.Array) -> jax.Array:
    return jnp.abs(x) + 0.1


CALLS: dict[str, Callable[[], Call]] = {
    "EnsemblePrediction": lambda: call(
        lambda c: (
            K.EnsemblePrediction(c[:, :1], c @ c.T + jnp.eye(5, dtype=c.dtype)).standard_deviation
        ),
        numbers(1, 5, 5),
    ),
    "Exponential.log_matrix": on_points(lambda w: K.Exponential(w).log_matrix),
    "Exponential.matrix": on_points(lambda w: K.Exponential(w).matrix),
    "FourierFeatures.features": lambda: call(
        lambda p, x: K.FourierFeatures(cosine(), p).features(x), cosine_parameters(), x1()
    ),
    "FourierFeatures.matrix": lambda: call(
        lambda p, a, b: K.FourierFeatures(cosine(), p).matrix(a, b),
        cosine_parameters(),
        x1(),
        x2(),
    ),
    "FrozenNTK.inputs": lambda: call(
        lambda free: frozen(jnp.ones((), free.real.dtype)).inputs(in_chart(free)),
        free_coordinates(),
    ),
    "FrozenNTK.operator": lambda: call(
        lambda free, scale, v: frozen(scale).operator(in_chart(free), in_chart(free), chunk=3) @ v,
        free_coordinates(),
        jnp.float64(0.5),
        components(),
    ),
    "FrozenOperator": lambda: call(
        lambda free, v: (
            frozen(jnp.ones((), v.dtype)).operator(in_chart(free[:2]), in_chart(free), chunk=9) @ v
        ),
        free_coordinates(),
        components(),
    ),
    "Gaussian.log_matrix": on_points(lambda w: K.Gaussian(w).log_matrix),
    "Gaussian.matrix": on_points(lambda w: K.Gaussian(w).matrix),
    "HessianFrame": lambda: call(
        lambda free: like(frame(), free)(in_chart(free)), free_coordinates()
    ),
    "InfiniteCosineNetwork.log_matrix": on_vectors(lambda w: K.InfiniteCosineNetwork(w).log_matrix),
    "InfiniteCosineNetwork.matrix": on_vectors(lambda w: K.InfiniteCosineNetwork(w).matrix),
    "InfiniteNetwork.matrix": on_points(
        lambda w: K.InfiniteNetwork("relu", 2, weight_std=w, bias_std=0.1).matrix
    ),
    "KernelFit": lambda: call(fitted, x2(), values(), x1()),
    "PeriodicGaussian.matrix": on_vectors(lambda w: K.PeriodicGaussian(w, (3.0, 4.0, 5.0)).matrix),
    "Product.matrix": on_points(lambda w: K.Product((K.Gaussian(w), K.Exponential(w))).matrix),
    "Rescaled.matrix": lambda: call(
        K.Rescaled(K.Gaussian(0.7), lambda z: jnp.sum(jnp.abs(z) ** 2)).matrix, z1(), z2()
    ),
    "RootFrame": lambda: call(lambda free: root_frame()(in_chart(free)), free_coordinates()),
    "SquaredExponential.log_matrix": on_points(lambda w: K.SquaredExponential(w).log_matrix),
    "SquaredExponential.matrix": on_points(lambda w: K.SquaredExponential(w).matrix),
    "StaxKernel.matrix": lambda: call(
        K.StaxKernel(lambda x, y, get: jnp.tanh(x @ y.T)).matrix, z1(), z2()
    ),
    "Sum.matrix": on_points(lambda w: K.Sum((K.Gaussian(w), K.Exponential(w)), (0.3, w)).matrix),
    "TensorKernel.operator": lambda: call(
        lambda free, v: tensor_kernel(free).operator(in_chart(free), in_chart(free), chunk=3) @ v,
        free_coordinates(),
        components(),
    ),
    "TensorOperator": lambda: call(
        lambda free, v: (
            tensor_kernel(free).operator(in_chart(free[:2]), in_chart(free), chunk=9, stored=True)
            @ v
        ),
        free_coordinates(),
        components(),
    ),
    "UnitGaussian.log_matrix": on_vectors(lambda w: K.UnitGaussian(w).log_matrix),
    "UnitGaussian.matrix": on_vectors(lambda w: K.UnitGaussian(w).matrix),
    "apply": lambda: call(
        lambda a, b, v: K.apply(K.Gaussian(0.7), a, b, v, normalise=True, chunk=2),
        z1(),
        z2(),
        values(),
    ),
    "Delta": lambda: call(lambda a, b, v: K.apply(K.Delta(), a, b, v), z1(), z2(), values()),
    "block_eigenvalues": lambda: call(
        K.block_eigenvalues, theta(), vmap="order", grad="order", single="order", jit="order"
    ),
    "block_singular_values": lambda: call(K.block_singular_values, rectangular()),
    "dense": on_points(lambda w: lambda a, b: K.dense(K.Gaussian(w), a, b, normalise=True)),
    "dense_operator": lambda: call(
        lambda a, b, v: K.dense_operator(K.Gaussian(0.7), a, b) @ v, z1(), z2(), values()
    ),
    "effective_rank": lambda: call(lambda x: K.effective_rank(spectrum(x)), numbers(1, 6)),
    "ensemble_prediction": lambda: call(
        lambda x, y, at: K.ensemble_prediction(
            gaussian(), K.SquaredExponential(2.0), x, y, at, time=1.0
        ),
        x2(),
        values(),
        x1(),
    ),
    "hessian_frame": lambda: call(
        lambda free: (
            K.hessian_frame(
                surface(),
                basis(),
                geometry.points_at(surface(), in_chart(free), chart=HOME, check=False),
                chart=HOME,
            ).sizes
        ),
        free_coordinates(),
    ),
    "imaginary_share": lambda: call(K.imaginary_share, complex_numbers(1, 6)),
    "joint_matrix": lambda: call(K.joint_matrix, rectangular()),
    "joint_spectrum": lambda: call(
        lambda t: K.joint_spectrum((t + t.transpose(1, 0, 3, 2)) / 2), theta()
    ),
    "kernel_alignment": lambda: call(K.kernel_alignment, theta(), theta() ** 2),
    "kernel_regression": lambda: call(fitted, x2(), values(), x1()),
    "kernel_velocity": lambda: call(
        lambda x, nodes, w, slope: K.kernel_velocity(K.UnitGaussian(0.7), x, nodes, w, slope),
        x1(),
        x2(),
        jnp.exp(numbers(5, 5)),
        values(),
    ),
    "leave_one_out": lambda: call(
        lambda x, y: K.leave_one_out(gaussian(), x, y), x2(), values(), rough=20
    ),
    "log_marginal_likelihood": lambda: call(
        lambda x, y: K.log_marginal_likelihood(gaussian(), x, y), x2(), values(), rough=20
    ),
    "metric_ntk": lambda: call(at_origin(K.metric_ntk), small_parameters(), x1(), x2()),
    "metric_ntk_components": lambda: call(
        lambda p, a, b: K.metric_ntk_components(small_network(), p, a, b, pairs=[(0, 0), (0, 1)]),
        small_parameters(),
        x1(),
        x2(),
    ),
    "metric_ntk_diagonal": lambda: call(at_origin(K.metric_ntk_diagonal), small_parameters(), x1()),
    "metric_ntk_product": lambda: call(
        at_origin(K.metric_ntk_product), small_parameters(), x1(), x2(), values()
    ),
    "pulled_back": lambda: call(at_origin(K.pulled_back), small_parameters(), x2(), values()),
    "regression_trajectory": lambda: call(
        lambda x, y, at, times: K.regression_trajectory(gaussian(), x, y, at, times),
        x2(),
        values(),
        x1(),
        jnp.array([0.5, 2.0]),
    ),
    "spectral_filter": lambda: call(
        lambda x, t: K.spectral_filter(spectrum(x), t, 0.1), numbers(1, 6), jnp.float64(2.0)
    ),
    "target_alignment": lambda: call(K.target_alignment, theta(), values()),
    "tiled_operator": lambda: call(
        lambda a, b, v: K.tiled_operator(K.Exponential(0.7), a, b, normalise=True, chunk=2) @ v,
        z1(),
        z2(),
        values(),
    ),
    "volume_factor": lambda: call(
        lambda x: K.volume_factor(lambda y: jnp.eye(3, dtype=y.dtype) + jnp.outer(y, y))(x),
        numbers(1, 3),
    ),
    "wasserstein_distance": lambda: call(K.wasserstein_distance, numbers(1, 6), numbers(2, 6)),
}

NOT_APPLICABLE = {
    "Exponential": "record",
    "FourierFeatures": "record",
    "FrameValues": "record",
    "FrozenNTK": "record",
    "Gaussian": "record",
    "InfiniteCosineNetwork": "record",
    "InfiniteNetwork": "record",
    "Operator": "protocol",
    "PeriodicGaussian": "record",
    "Product": "record",
    "Rescaled": "record",
    "SquaredExponential": "record",
    "StaxKernel": "record",
    "Sum": "record",
    "TensorKernel": "record",
    "UnitGaussian": "record",
}
