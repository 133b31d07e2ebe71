"""Functionals on the Kaehler metrics g_0 + d dbar phi of a Calabi-Yau manifold.

Each is a mean over nodes x with weights w of the Calabi-Yau measure, <f> = sum w f / sum w: times
the volume it is the integral over mu_CY = kappa |Omega|^2.  mu_g = eta mu_CY.  The fields come from
wherever the nodes are: :class:`metricflow.geometry.KaehlerTorus` on a grid,
:func:`metricflow.geometry.ricci_scalar` and
:func:`metricflow.geometry.volume_slope_squared` on a hypersurface.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ..geometry import KaehlerTorus, hermitian_determinant
from ..geometry.kaehler_torus import raised, trace
from .convex import ENTROPY, ConvexFunction


def ultra_local_energy(
    eta: Float[Array, "*b"], weight: Float[Array, "*b"], function: ConvexFunction = ENTROPY
) -> Float[Array, ""]:
    """<F(eta)>, at least zero and zero for the Calabi-Yau metric alone.

    Args:
        eta: the volume ratio at the nodes, of weighted mean one.
        weight: w.
        function: F in normal form.

    Source: MF B.12, MF B.14.
    """
    return _mean(function.value(eta), weight)


def mabuchi_energy(eta: Float[Array, "*b"], weight: Float[Array, "*b"]) -> Float[Array, ""]:
    """<eta ln eta>: the functional M with delta M = -int delta phi R mu_g, zero at the CY metric.

    True on a Calabi-Yau manifold, where the mean of R vanishes and R = -Delta ln eta.

    Source: MF B.12 with F = eta ln eta.
    """
    return ultra_local_energy(eta, weight, ENTROPY)


def calabi_energy(
    ricci_scalar: Float[Array, "*b"], eta: Float[Array, "*b"], weight: Float[Array, "*b"]
) -> Float[Array, ""]:
    """<eta R^2>, the integral of R^2 over mu_g.

    Source: MF B.7.
    """
    return _mean(eta * ricci_scalar**2, weight)


def two_derivative_energy(
    slope_squared: Float[Array, "*b"], weight: Float[Array, "*b"]
) -> Float[Array, ""]:
    """<|d ln eta|^2_g> = -<R>, which falls along dphi/dt = 1 - eta^(-1/2).

    The print has |d eta|^2, which is this function of the squared slope of eta itself: its
    variation is not the printed one (:func:`printed_two_derivative_variation`), and it may rise.

    Source: MF B.15 (corrected).
    """
    return _mean(slope_squared, weight)


def einstein_hilbert_energy(
    ricci_scalar: Float[Array, "*b"], weight: Float[Array, "*b"]
) -> Float[Array, ""]:
    """-<R> / 2, half of :func:`two_derivative_energy`.

    Source: MF B.17.
    """
    return -_mean(ricci_scalar, weight) / 2


def kaehler_perelman_functional(
    ricci_scalar: Float[Array, "*b"], slope_squared: Float[Array, "*b"], weight: Float[Array, "*b"]
) -> Float[Array, ""]:
    """<R + |d ln eta|^2_g>: zero for every metric of the class, so it is no energy.

    Source: MF B.18 (an identity; its sign does not matter).
    """
    return _mean(ricci_scalar + slope_squared, weight)


def j_functional(
    reference: Complex[Array, "*b n n"],
    hessian: Complex[Array, "*b n n"],
    potential: Float[Array, "*b"],
    chi: Complex[Array, "*b n n"],
    volume: Float[Array, "*b"],
    weight: Float[Array, "*b"],
) -> Float[Array, ""]:
    """J_chi(phi), J_chi(0) = 0, with delta J = int delta phi (tr_g chi - c) mu_g.

    The integral of that variation along phi_s = s phi; in s it is a polynomial of degree n, which
    Gauss's rule integrates exactly.  c is the mean of tr_g chi over mu_g, the same for all metrics
    of the class.  The flow of J ends where tr_g chi = c, which is not the Calabi-Yau metric.

    Args:
        reference: g_0 at the nodes.
        hessian: d dbar phi there.
        potential: phi.
        chi: a closed Hermitian form, such as g_0.
        volume: det g_0 / (kappa_0 |Omega|^2) at the nodes, the volume ratio of the reference.
        weight: w.

    Source: the J functional named after MF B.17.
    """
    n = reference.shape[-1]
    nodes, parts = np.polynomial.legendre.leggauss(n // 2 + 1)
    first = hermitian_determinant(reference)

    def slope(s: float) -> Array:
        g = reference + s * hessian
        eta = volume * hermitian_determinant(g) / first
        traced = trace(g, chi)
        c = _mean(eta * traced, weight) / _mean(eta, weight)
        return _mean(eta * potential * (traced - c), weight)

    # as lists: numbers of numpy would make double precision of single
    rule = zip(nodes.tolist(), parts.tolist(), strict=True)
    terms = [p / 2 * slope((x + 1) / 2) for x, p in rule]
    return jnp.sum(jnp.stack(terms))


def ultra_local_variation(
    torus: KaehlerTorus, g: Complex[Array, "... n n"], function: ConvexFunction = ENTROPY
) -> Float[Array, "..."]:
    """v = eta Delta F'(eta), with delta <F(eta)> = <delta phi v>.

    Half of it in print, whose nabla^2 is the real Laplacian, 2 Delta.

    Source: MF B.13.
    """
    eta = torus.volume_ratio(g)
    return eta * torus.laplacian(g, function.slope(eta))


def calabi_variation(torus: KaehlerTorus, g: Complex[Array, "... n n"]) -> Float[Array, "..."]:
    """v with delta <eta R^2> = <delta phi v>: eta (Delta R^2 - 2 Delta^2 R - 2 div div (R Ric)).

    Source: MF B.7.
    """
    eta, ricci = torus.volume_ratio(g), torus.ricci(g)
    scalar = trace(g, ricci)
    bilaplacian = torus.laplacian(g, torus.laplacian(g, scalar))
    # grad_a gradbar_b T^(a bbar) = d_a dbar_b (eta T^(a bbar)) / eta on a Kaehler manifold
    weighted = (eta * scalar)[..., None, None] * raised(g, ricci)
    divergence = torus.double_divergence(weighted)
    return eta * (torus.laplacian(g, scalar**2) - 2 * bilaplacian) - 2 * divergence


def two_derivative_variation(
    torus: KaehlerTorus, g: Complex[Array, "... n n"]
) -> Float[Array, "..."]:
    """v with delta <|d ln eta|^2> = <delta phi v> = 4 <eta^(1/2) <dd phi, dd eta^(-1/2)>_g>.

    Source: MF B.16.
    """
    eta = torus.volume_ratio(g)
    hessian = torus.hessians(eta**-0.5)
    return 4 * torus.double_divergence(jnp.sqrt(eta)[..., None, None] * raised(g, hessian))


def printed_two_derivative_variation(
    torus: KaehlerTorus, g: Complex[Array, "... n n"]
) -> Float[Array, "..."]:
    """v with delta <|d eta|^2> = <delta phi v>, the energy as printed.

    -2 eta Delta(eta Delta ln eta) - d_a dbar_b (d^a eta dbar^b eta), which is not MF B.16: to first
    order in eta - 1 both are -2 Delta^2 eta.

    Source: MF B.15 (as printed).
    """
    eta = torus.volume_ratio(g)
    slope = torus.slopes(eta)
    squares = raised(g, slope[..., :, None] * slope[..., None, :].conj())
    inner = eta * torus.laplacian(g, jnp.log(eta))
    return -2 * eta * torus.laplacian(g, inner) - torus.double_divergence(squares)


def einstein_hilbert_variation(
    torus: KaehlerTorus, g: Complex[Array, "... n n"]
) -> Float[Array, "..."]:
    """Half of :func:`two_derivative_variation`.

    Source: MF B.16, MF B.17.
    """
    return two_derivative_variation(torus, g) / 2


def j_variation(
    torus: KaehlerTorus, g: Complex[Array, "... n n"], chi: Complex[Array, "... n n"]
) -> Float[Array, "..."]:
    """v = eta (tr_g chi - c), with delta J_chi = <delta phi v>."""
    eta, traced = torus.volume_ratio(g), trace(g, chi)
    return eta * (traced - torus.grid.mean(eta * traced))


def _mean(values: Array, weight: Array) -> Array:
    return jnp.sum(weight * values) / jnp.sum(weight)
