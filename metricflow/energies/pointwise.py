"""Pointwise losses of a metric, with their variations, and weighted sums of them.

An energy here is E[g] = sum_x m(x) l[g](x) with weights m (a batch, or a measure) and a pointwise
loss l; a flow needs its variation dl/dg, a network its derivative by the parameters.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ..geometry import (
    Points,
    hermitian_determinant,
    hermitian_frame,
    hermitian_inverse,
    hermitian_pivots,
    hermitian_unpack,
    ricci_scalar,
)

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


def sigma_energy(
    components: Float[Array, "b c"],
    omega2: Float[Array, " b"],
    weight: Float[Array, " b"],
    kappa: Float[Array, ""] | float,
    *,
    power: float = 2.0,
) -> Float[Array, ""]:
    """E = sum_b m_b |1 - eta(x_b)|^p as a function of the real components of g.

    Args:
        components: of the metric, :func:`metricflow.geometry.hermitian_pack`, shape (N, n^2).
        omega2: |Omega|^2 at the points.
        weight: m_b: ones for a sum over a batch, w_b / sum w for the mean over mu_CY.
        kappa: Vol_g / Vol_Omega, held.
        power: p.

    Source: MF 2.3, MF 2.4, MF B.11
    """
    return jnp.dot(weight, sigma_loss(hermitian_unpack(components), omega2, kappa, power=power))


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


def kaehler_loss(
    slopes: Float[Array, "b d c"], reference: Complex[Array, "b n n"], *, power: float = 1.0
) -> Float[Array, " b"]:
    """|d_a g_(b cbar) - d_b g_(a cbar)|^p at every point: zero for Kaehler metrics.

    The norm is that of a reference metric, so that the loss does not depend on the chart and is
    convex in g.  The sum runs over all a, b, c.

    Args:
        slopes: derivatives of g along the 2n real directions of X, J_a first and then i J_a, as
            the real components of :func:`metricflow.geometry.hermitian_pack`.
        reference: a positive metric at the points, such as Fubini-Study.
        power: p.
    """
    n = reference.shape[-1]
    along = hermitian_unpack(slopes)
    derivative = (along[:, :n] - 1j * along[:, n:]) / 2
    torsion = derivative - derivative.swapaxes(1, 2)
    return _norm_power(_in_frame(torsion, reference, "abc"), power)


def transition_loss(
    there: Complex[Array, "b n n"],
    carried: Complex[Array, "b n n"],
    reference: Complex[Array, "b n n"],
    *,
    power: float = 1.0,
) -> Float[Array, " b"]:
    """|g' - T g T^dagger|^p at every point: zero for a metric that is the same in two charts.

    Args:
        there: g', computed in the second chart.
        carried: T g T^dagger, computed in the first and carried to the second.
        reference: a positive metric in the second chart, for the norm.
        power: p.
    """
    return _norm_power(_in_frame(there - carried, reference, "ac"), power)


def volume_loss(
    g: Complex[Array, "b n n"], reference: Complex[Array, "b n n"], *, power: float = 1.0
) -> Float[Array, ""]:
    """|Vol(g) / Vol(g_FS) - 1|^p, of a whole batch drawn from the Fubini-Study measure."""
    ratio = hermitian_determinant(g) / hermitian_determinant(reference)
    return jnp.abs(jnp.mean(ratio) - 1) ** power


def ricci_loss(metric: Any, points: Points, *, power: float = 1.0) -> Float[Array, " b"]:
    """|g^(ab) R_ab|^p at every point of a callable metric: zero for Calabi-Yau metrics.

    It differentiates the metric twice more, at the price of some twenty metrics a point.
    """
    return jnp.abs(ricci_scalar(metric, points)) ** power


TERMS = ("monge_ampere", "kaehler", "transition", "ricci", "volume")


@dataclasses.dataclass(frozen=True)
class Energy:
    """A weighted sum of energies of a model: sum of the weights times the terms.

    A term is the mean of a pointwise loss over the Calabi-Yau measure (weights w of the points); a
    weight of zero leaves it out, and for a potential the Kaehler and the transition term are zero
    without being computed.

    Attributes:
        monge_ampere: weight of :func:`sigma_loss`; with ``power`` 1 the term is the sigma measure.
        kaehler: weight of :func:`kaehler_loss`.
        transition: weight of :func:`transition_loss`, to the neighbouring chart.
        ricci: weight of :func:`ricci_loss`.
        volume: weight of :func:`volume_loss`.
        power: p of every term but the Kaehler term.
        kaehler_power: p of that; with 1 and a large weight every network stays at Fubini-Study,
            since the first step away costs more than it gains.

    Raises:
        ValueError: a weight that is negative or not finite, no weight above zero, p below 1.

    Source: MF B.11 and the losses of the cymetric package that MF section 3 trains with.
    """

    monge_ampere: float = 1.0
    kaehler: float = 0.0
    transition: float = 0.0
    ricci: float = 0.0
    volume: float = 0.0
    power: float = 1.0
    kaehler_power: float = 2.0

    def __post_init__(self) -> None:
        for name in TERMS:
            weight = getattr(self, name)
            if not 0 <= weight < float("inf"):
                raise ValueError(f"{name}: expected a finite weight of at least 0, got {weight}")
        if not any(getattr(self, name) for name in TERMS):
            raise ValueError("Energy: every weight is zero; give one of " + ", ".join(TERMS))
        for name in ("power", "kaehler_power"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def __call__(
        self,
        model: Any,
        parameters: Any,
        data: Any,
        kappa: Float[Array, ""] | float | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The energy and its terms, unweighted, over a batch of prepared points.

        Args:
            model: such as :class:`metricflow.ansatz.PotentialModel`.
            parameters: of its network.
            data: from ``model.prepare(points)``, or rows of it.
            kappa: Vol_g / Vol_Omega.  By default re-estimated on the batch, as it suits potentials:
                their volume is fixed, and an estimate from other points would set a floor to the
                loss.  Held at that of the reference metric it fixes the volume of other models.
        """
        weight = data.points.weight / jnp.sum(data.points.weight)
        zero = jnp.zeros((), weight.dtype)
        g = model.metric(parameters, data)
        terms: dict[str, Array] = {}
        if self.monge_ampere:
            if kappa is None:
                kappa = weight @ (hermitian_determinant(g) / data.points.omega2)
            gap = sigma_loss(g, data.points.omega2, kappa, power=self.power)
            terms["monge_ampere"] = weight @ gap
        if self.kaehler:
            terms["kaehler"] = zero
            if not model.kaehler:
                slopes = model.real_slopes(parameters, data)
                torsion = kaehler_loss(slopes, data.reference, power=self.kaehler_power)
                terms["kaehler"] = weight @ torsion
        if self.transition:
            terms["transition"] = zero
            if not model.kaehler:
                there, carried = model.beside(parameters, data)
                mismatch = transition_loss(there, carried, data.beside_reference, power=self.power)
                terms["transition"] = weight @ mismatch
        if self.ricci:
            curvature = ricci_loss(model.bind(parameters), data.points, power=self.power)
            terms["ricci"] = weight @ curvature
        if self.volume:
            terms["volume"] = volume_loss(g, data.reference, power=self.power)
        total = sum((getattr(self, name) * value for name, value in terms.items()), zero)
        return total, terms


def _in_frame(tensor: Array, reference: Array, indices: str) -> Array:
    """Components in a frame that is orthonormal for the reference; the last index is barred."""
    frame = hermitian_frame(reference)
    for place in range(len(indices)):
        matrix = frame.conj() if place == len(indices) - 1 else frame
        moved = jnp.moveaxis(tensor, place + 1, -1)
        moved = jnp.einsum("xfa,x...a->x...f", matrix, moved)
        tensor = jnp.moveaxis(moved, -1, place + 1)
    return tensor


def _norm_power(tensor: Array, power: float) -> Array:
    """|tensor|^p over all axes but the first, with derivative zero where the tensor vanishes."""
    square = jnp.sum(tensor.real**2 + tensor.imag**2, axis=tuple(range(1, tensor.ndim)))
    positive = square > 0
    return jnp.where(positive, jnp.where(positive, square, 1) ** (power / 2), 0)
