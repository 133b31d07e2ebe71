"""Scalar energies of a metric as pointwise losses, with their variations.

An energy here is E[g] = sum_x m(x) l[g](x) with weights m (a batch, or a measure) and a pointwise
loss l; a flow needs its variation dl/dg.
"""

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .geometry import Points, hermitian_determinant, hermitian_inverse, hermitian_pivots

GRADIENTS = ("euclidean", "covariant")


def volume_ratio_eta(
    g: Complex[Array, "*b n n"], omega2: Float[Array, "*b"], kappa: Float[Array, ""] | float
) -> Float[Array, "*b"]:
    """eta = det g / (kappa |Omega|^2), equal to 1 everywhere for the Calabi-Yau metric.

    Source: MF B.10, MF B.11.
    """
    return hermitian_determinant(g) / (kappa * omega2)


def sigma_loss(
    g: Complex[Array, "*b n n"],
    omega2: Float[Array, "*b"],
    kappa: Float[Array, ""] | float,
    *,
    power: float = 1.0,
) -> Float[Array, "*b"]:
    """The pointwise loss l = |1 - eta|^p; p = 1 is the sigma loss of the paper.

    Source: MF B.11.
    """
    return jnp.abs(1 - volume_ratio_eta(g, omega2, kappa)) ** power


def sigma_loss_variation(
    g: Complex[Array, "*b n n"],
    omega2: Float[Array, "*b"],
    kappa: Float[Array, ""] | float,
    *,
    power: float = 1.0,
    gradient: str = "euclidean",
) -> Complex[Array, "*b n n"]:
    """The variation of |1 - eta|^p with kappa held fixed.

    - ``"euclidean"``: dl/dg = -p sign(1 - eta) |1 - eta|^(p-1) eta g^-1, the gradient for the
      product tr(A B); it depends on the chart and on the scale of the metric.
    - ``"covariant"``: g (dl/dg) g = -p sign(1 - eta) |1 - eta|^(p-1) eta g, the gradient for the
      product tr(g^-1 A g^-1 B); a tensor like g itself.

    p = 1 gives updates that do not shrink near eta = 1; p = 2 converges.

    Raises:
        ValueError: an unknown ``gradient``.

    Source: MF 3.5 (its last factor).
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient: expected one of {GRADIENTS}, got {gradient!r}")
    eta = volume_ratio_eta(g, omega2, kappa)
    gap = 1 - eta
    slope = -power * jnp.sign(gap) * jnp.abs(gap) ** (power - 1) * eta
    tensor = hermitian_inverse(g) if gradient == "euclidean" else g
    return slope[..., None, None] * tensor


def monge_ampere_residuals(g: Complex[Array, "b n n"], points: Points) -> Float[Array, " b"]:
    """r_x = sqrt(w_x) (log(det g / |Omega|^2) - mean), w normalised to one, mean weighted by w.

    The sum of squares is the variance of log eta over the Calabi-Yau measure: zero for the
    Calabi-Yau metric, whatever kappa is, and near it the square of eta - 1.  Infinite where g is
    not positive definite, the boundary of the Kaehler cone.

    Source: MF B.11 (eta), as a least-squares problem.
    """
    weight = points.weight / jnp.sum(points.weight)
    positive = jnp.all(hermitian_pivots(g) > 0, axis=-1)
    # a determinant of one keeps derivatives finite where the answer is infinite anyway
    determinant = jnp.where(positive, hermitian_determinant(g), 1)
    log = jnp.log(determinant) - jnp.log(points.omega2)
    residuals = jnp.sqrt(weight) * (log - jnp.sum(weight * log))
    return jnp.where(positive, residuals, jnp.inf)
