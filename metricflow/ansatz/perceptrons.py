"""Complex Hessians of perceptrons, layer by layer: what a potential needs and nothing more.

Values and first derivatives go forward, sensitivities go back, and every neuron adds its share of
the second derivative where the two meet.  The points stand on the last axis.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Layers = Sequence[tuple[Array, Array | None]]


def perceptron_hessians(
    layers: Layers,
    activation: Callable[[Array], Array],
    jets: Float[Array, "f c b"],
    dim: int,
) -> Float[Array, "h b"]:
    """d_a dbar_b phi(y(x)) of a perceptron phi with one output, as n^2 real components.

    With h_i the input of neuron i, u_i = d h_i its holomorphic derivative along X and s_i the
    derivative of phi by its output,

        d_a dbar_b phi = sum_m (dphi/dy_m) d_a dbar_b y_m + sum_i s_i act''(h_i) u_ia conj(u_ib),

    the second sum over all neurons of all layers.  Work: 2n + 2 passes through the network.

    Args:
        layers: kernel and bias of every layer, the last one with one output.
        activation: between the layers.
        jets: of the features, from :func:`metricflow.ansatz.feature_jets` with points last.
        dim: n.
    """
    first = 1 + 2 * dim
    stream = jets[:, :first]
    seen = []
    for kernel, bias in layers[:-1]:
        before = jnp.einsum("io,icb->ocb", kernel, stream)
        value = before[:, 0] if bias is None else before[:, 0] + bias[:, None]
        slopes = before[:, 1:]
        after, rise, bend = _derivatives(activation, value)
        stream = jnp.concatenate([after[:, None], rise[:, None] * slopes], axis=1)
        seen.append((kernel, slopes, rise, bend))
    sensitivity = jnp.broadcast_to(layers[-1][0], (layers[-1][0].shape[0], jets.shape[-1]))
    total = jnp.zeros((dim**2, jets.shape[-1]), jets.dtype)
    for kernel, slopes, rise, bend in reversed(seen):
        total = total + _outer_sum(sensitivity * bend, slopes, dim)
        sensitivity = kernel @ (sensitivity * rise)
    return total + jnp.sum(sensitivity[:, None] * jets[:, first:], axis=0)


def _derivatives(function: Callable[[Array], Array], x: Array) -> tuple[Array, Array, Array]:
    """The function with its first and second derivative, elementwise."""
    one = jnp.ones_like(x)

    def slope(y: Array) -> tuple[Array, Array]:
        return jax.jvp(function, (y,), (one,))

    (value, first), (_, second) = jax.jvp(slope, (x,), (one,))
    return value, first, second


def _outer_sum(weight: Array, slopes: Array, dim: int) -> Array:
    """sum_i w_i u_ia conj(u_ib) with u = slopes[:, :n] + i slopes[:, n:], as real components."""
    # one term after the other: gathers by index arrays have slow derivatives
    real = [slopes[:, a] for a in range(dim)]
    imaginary = [slopes[:, dim + a] for a in range(dim)]
    left = [weight * x for x in real]
    lower = [weight * x for x in imaginary]
    pairs = list(itertools.combinations(range(dim), 2))
    even = [
        left[a] * real[b] + lower[a] * imaginary[b]
        for a, b in [*((a, a) for a in range(dim)), *pairs]
    ]
    odd = [lower[a] * real[b] - left[a] * imaginary[b] for a, b in pairs]
    return jnp.stack([jnp.sum(term, axis=0) for term in (*even, *odd)])
