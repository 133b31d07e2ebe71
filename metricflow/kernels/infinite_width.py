"""Neural tangent kernels of infinitely wide networks in closed form."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .. import _checks
from .._pytree import register_dataclass

Scalar = Float[Array, ""] | float


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ReluNTK:
    """The frozen NTK of a fully connected ReLU network in NTK parameterisation.

    f = W_L relu(... relu(W_0 x)), layer inputs h -> sigma_w W h / sqrt(fan_in) + sigma_b b with
    W, b ~ N(0, 1), all hidden widths to infinity, x = (Re z, Im z) of 2(n+2) components:

        K_0 = sigma_w^2 x.x' / dim + sigma_b^2,   Theta_0 = K_0,
        K_(l+1) = sigma_w^2 sqrt(q q') (sin t + (pi - t) cos t) / (2 pi) + sigma_b^2,
        Theta_(l+1) = K_(l+1) + sigma_w^2 (pi - t) / (2 pi) Theta_l,

    with q, q' the diagonal values of K_l and cos t = K_l / sqrt(q q').  The recursion carries
    D = q + q' - 2 K instead of K, so that small angles come out right to rounding: in float32 the
    arccos form loses four digits on the diagonal.

    Attributes:
        depth: number of hidden layers, at least 1.
        weight_std: sigma_w > 0.
        bias_std: sigma_b >= 0.

    Raises:
        ValueError: depth below 1, sigma_w not above zero, sigma_b negative.

    Source: MF 2.9, MF 2.11, MF 2.12, MF section 3.2.
    """

    depth: int = dataclasses.field(default=1, metadata={"static": True})
    weight_std: Scalar = 1.0
    bias_std: Scalar = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.positive_integer("depth", self.depth)
        if isinstance(self.weight_std, int | float):
            _checks.positive_number("weight_std", self.weight_std)
        if isinstance(self.bias_std, int | float) and not self.bias_std >= 0:
            raise ValueError(f"bias_std: expected a number of at least 0, got {self.bias_std}")

    def matrix(
        self, z1: Complex[Array, "b1 k"], z2: Complex[Array, "b2 k"]
    ) -> Float[Array, "b1 b2"]:
        """Theta for all pairs of points given by homogeneous coordinates in their chart."""
        x = jnp.concatenate([z1.real, z1.imag], axis=-1)
        y = jnp.concatenate([z2.real, z2.imag], axis=-1)
        dimension = x.shape[-1]
        weight, bias = self.weight_std**2, self.bias_std**2
        q1 = (weight * jnp.sum(x**2, axis=-1) / dimension + bias)[:, None]
        q2 = (weight * jnp.sum(y**2, axis=-1) / dimension + bias)[None, :]
        apart = jnp.asarray(sum((x[:, None, i] - y[None, :, i]) ** 2 for i in range(dimension)))
        together = jnp.asarray(sum((x[:, None, i] + y[None, :, i]) ** 2 for i in range(dimension)))
        distance2 = weight * apart / dimension
        sum2 = weight * together / dimension + 4 * bias
        theta = (q1 + q2 - distance2) / 2
        for _ in range(self.depth):
            q1, q2, distance2, sum2, theta = _relu_layer(
                q1, q2, distance2, sum2, theta, weight, bias
            )
        return theta


def _relu_layer(
    q1: Array,
    q2: Array,
    distance2: Array,
    sum2: Array,
    theta: Array,
    weight: Scalar,
    bias: Scalar,
) -> tuple[Array, Array, Array, Array, Array]:
    """One hidden layer: diagonals q, squared distance and squared sum of outputs, and the NTK."""
    scale = jnp.sqrt(q1 * q2)
    uneven = ((q1 - q2) / (jnp.sqrt(q1) + jnp.sqrt(q2))) ** 2
    # 1 - cos t and 1 + cos t, each without cancellation where it is small
    versine = jnp.clip((distance2 - uneven) / (2 * scale), 0, 2)
    coversine = jnp.clip((sum2 - uneven) / (2 * scale), 0, 2)
    angle = 2 * jnp.arctan2(_safe_sqrt(versine), _safe_sqrt(coversine))
    sine = _safe_sqrt(versine * coversine)
    cosine = (coversine - versine) / 2
    # 1 - (sin t + (pi - t) cos t) / pi
    deficit = versine - (sine - angle * cosine) / jnp.pi
    distance2 = weight * (uneven / 2 + scale * deficit)
    q1, q2 = weight * q1 / 2 + bias, weight * q2 / 2 + bias
    covariance = (q1 + q2 - distance2) / 2
    theta = covariance + weight * (jnp.pi - angle) / (2 * jnp.pi) * theta
    return q1, q2, distance2, 2 * (q1 + q2) - distance2, theta


def _safe_sqrt(x: Array) -> Array:
    """sqrt with derivative zero at zero, where the kernel has a cusp."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
