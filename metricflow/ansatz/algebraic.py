"""Algebraic metrics: K = (1/k) log s^dagger H s over the sections s of degree k.

They need no symmetry, are Kaehler and defined everywhere, and are positive for every positive
Hermitian H: the restriction of the Fubini-Study metric of a large projective space.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Complex, Float, Int

from .. import _checks, processes
from .._annotations import Count
from .._checks import AnyArray
from .._jit import jit
from .._pytree import register_dataclass
from .._tiles import carrying, map_tiles
from ..geometry import Hypersurface, Points
from .global_metric import GlobalMetric
from .jets import holomorphic_monomials
from .symmetry import monomials


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Sections:
    """A basis s of the polynomials of degree k modulo P, orthonormal on a sample of points.

    Attributes:
        degree: k.
        exponents: independent monomials, shape (S, n+2).
        transform: s = transform @ monomials, shape (S, S).
    """

    degree: int = dataclasses.field(metadata={"static": True})
    exponents: Int[AnyArray, "s k"]
    transform: Complex[AnyArray, "s s"]

    @property
    def ambient(self) -> int:
        """The number n + 2 of homogeneous coordinates."""
        return int(self.exponents.shape[-1])


def section_count(manifold: Hypersurface, degree: int) -> int:
    """h^0(X, O(k)) = C(k+n+1, n+1) - C(k-1, n+1)."""
    top = manifold.dim + 1
    return math.comb(degree + top, top) - math.comb(max(degree - 1, 0), top)


def section_basis(manifold: Hypersurface, degree: int, points: Points) -> Sections:
    """Sections of degree k, orthonormal for the mean of s s^dagger / |z|^(2k) over the points.

    Raises:
        ValueError: a degree below 1, fewer points than twice the number of sections.
    """
    degree = _checks.positive_integer("degree", degree)
    count = section_count(manifold, degree)
    if len(points.weight) < 2 * count:
        raise ValueError(f"points: {count} sections need {2 * count}, got {len(points.weight)}")
    z = processes.on_host(points.z).astype(np.complex128)[: 20 * count]
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    exponents = np.array(monomials(degree, manifold.ambient))
    power = z[None] ** np.arange(degree + 1)[:, None, None]
    values = np.prod([power[e, :, i] for i, e in enumerate(exponents.T)], axis=0)
    size = np.linalg.norm(values, axis=1, keepdims=True)
    order = scipy.linalg.qr((values / size).T, mode="r", pivoting=True)[1]
    chosen = np.sort(order[:count])
    triangle = np.linalg.qr(values[chosen].T, mode="r")
    # values^T = Q R, so R^-T values has orthonormal rows
    inverse = scipy.linalg.solve_triangular(triangle, np.eye(count), trans=1)
    return Sections(degree, exponents[chosen], inverse * np.sqrt(values.shape[1]))


@jit(static_argnames="chunk")
def section_jets(
    sections: Sections, points: Points, *, chunk: Count = 1024
) -> Float[Array, "two_s jets b"]:
    """s and d_a s at points, divided by |z|^k: shape (2S, 1 + n, N), real parts above imaginary.

    Real and imaginary parts as rows make a product with H one real matrix product.
    """
    norm = jnp.sum(jnp.abs(points.z) ** 2, axis=-1) ** (sections.degree / 2)

    def at(sections: Sections, point: tuple[Points, Array]) -> Array:
        one, scale = jax.tree.map(lambda x: x[None], point)
        value, slope = holomorphic_monomials(jnp.asarray(sections.exponents), sections.degree, one)
        jet = jnp.concatenate([value[:, None], slope], axis=1)[..., 0] / scale
        jet = jnp.asarray(sections.transform).astype(jet.dtype) @ jet
        return jnp.concatenate([jet.real, jet.imag])

    function = carrying(jax.vmap(at, (None, 0)), sections)
    return jnp.moveaxis(map_tiles(function, (points, norm), chunk), 0, -1)


@jit(static_argnames="chunk")
def section_values(
    sections: Sections, points: Points, *, chunk: Count = 4096
) -> Complex[Array, "s b"]:
    """s / |z|^k at points, shape (S, N)."""
    norm = jnp.sum(jnp.abs(points.z) ** 2, axis=-1) ** (sections.degree / 2)

    def at(sections: Sections, point: tuple[Points, Array]) -> Array:
        one, scale = jax.tree.map(lambda x: x[None], point)
        value, _ = holomorphic_monomials(jnp.asarray(sections.exponents), sections.degree, one)
        return jnp.asarray(sections.transform).astype(value.dtype) @ value[:, 0] / scale

    return map_tiles(carrying(jax.vmap(at, (None, 0)), sections), (points, norm), chunk).T


def hermitian_form(parameters: Float[Array, "s s"]) -> Complex[Array, "s s"]:
    """The Hermitian H of S^2 real numbers, orthonormal for the Frobenius product.

    Diagonal: H_ii; above it sqrt(2) Re H_ij; below it sqrt(2) Im H_ji.
    """
    upper = (jnp.triu(parameters, 1) + 1j * jnp.tril(parameters, -1).T) / math.sqrt(2)
    return upper + upper.conj().T + jnp.diag(jnp.diagonal(parameters)).astype(upper.dtype)


def form_parameters(form: Complex[AnyArray, "s s"]) -> Float[Array, "s s"]:
    """The inverse of :func:`hermitian_form`."""
    form = jnp.asarray(form)
    upper = math.sqrt(2) * jnp.triu(form, 1)
    return upper.real + upper.imag.T + jnp.diag(jnp.diagonal(form).real)


def algebraic_metric(
    parameters: Float[Array, "s s"], jets: Float[Array, "two_s jets b"], degree: int
) -> Complex[Array, "b n n"]:
    """g = d dbar (1/k) log s^dagger H s at points whose section jets are given.

    With F_mn = e_m^dagger H e_n for e = (s, d_1 s, ... d_n s):
    g_ab = (F_ba / F_00 - F_0a F_b0 / F_00^2) / k.
    """
    count, size, points = len(jets) // 2, jets.shape[1], jets.shape[2]
    form = hermitian_form(parameters)
    embedded = jnp.block([[form.real, -form.imag], [form.imag, form.real]]).astype(jets.dtype)
    moved = (embedded @ jets.reshape(2 * count, -1)).reshape(jets.shape)
    real, imaginary = jets[:count], jets[count:]
    moved_real, moved_imaginary = moved[:count], moved[count:]

    def product(m: int, n: int) -> Array:
        even = real[:, m] * moved_real[:, n] + imaginary[:, m] * moved_imaginary[:, n]
        odd = real[:, m] * moved_imaginary[:, n] - imaginary[:, m] * moved_real[:, n]
        return jnp.sum(even, axis=0) + 1j * jnp.sum(odd, axis=0)

    entries = {}
    for m, n in itertools.combinations_with_replacement(range(size), 2):
        entries[m, n] = product(m, n)
        entries[n, m] = entries[m, n].conj()
    norm = entries[0, 0].real
    rows = []
    for a in range(1, size):
        row = [
            (entries[b, a] / norm - entries[0, a] * entries[b, 0] / norm**2) / degree
            for b in range(1, size)
        ]
        rows.append(jnp.stack(row, axis=-1))
    return jnp.stack(rows, axis=-2).reshape(points, size - 1, size - 1)


def fubini_study_form(manifold: Hypersurface, sections: Sections, points: Points) -> Array:
    """The parameters of a form close to Fubini-Study: the balanced step from |z|^(2k)."""
    norm = jnp.ones_like(points.weight)
    return form_parameters(_balanced(section_values(sections, points), points.weight, norm))


def raised_form(
    metric: "AlgebraicMetric", sections: Sections, points: Points
) -> Float[Array, "s s"]:
    """A form of degree k for the sections whose metric is close to one of lower degree.

    H = (int s s^dagger e^(-kK))^-1 for the potential K of the metric, whose error falls as 1/k.
    """
    s = section_values(metric.sections, points)
    form = hermitian_form(jnp.asarray(metric.parameters))
    norm = jnp.sum(s.conj() * (form @ s), axis=0).real
    # in units of |z|^2, which the sections are divided by
    power = norm ** (sections.degree / metric.sections.degree)
    return form_parameters(_balanced(section_values(sections, points), points.weight, power))


def balanced_form(
    sections: Sections, points: Points, *, steps: int = 12
) -> tuple[Array, list[float]]:
    """Donaldson's balanced form: the fixed point of H <- (S / V int s s^dagger / s^dagger H s)^-1.

    The integral is over the Calabi-Yau measure |Omega|^2, estimated on the points.

    Returns:
        The parameters of H, and the relative change of H in every step.
    """
    s = section_values(sections, points)
    count = len(s)
    form = jnp.eye(count, dtype=s.dtype)
    changes = []
    for _ in range(_checks.positive_integer("steps", steps)):
        new = _balanced_step(form, s, points.weight)
        new = new * count / jnp.trace(new).real
        changes.append(float(jnp.linalg.norm(new - form) / jnp.linalg.norm(new)))
        form = new
    return form_parameters(form), changes


@jax.jit
def _balanced_step(form: Array, s: Array, weight: Array) -> Array:
    return _balanced(s, weight, jnp.sum(s.conj() * (form @ s), axis=0).real)


@jax.jit
def _balanced(s: Array, weight: Array, norm: Array) -> Array:
    gram = (s * (weight / jnp.sum(weight) / norm)) @ s.conj().T
    form = jnp.linalg.inv(len(s) * gram)
    return (form + form.conj().T) / 2


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AlgebraicMetric(GlobalMetric):
    """g = d dbar (1/k) log s^dagger H s, as a callable metric.

    Attributes:
        manifold: the hypersurface.
        sections: the sections s.
        parameters: of H, see :func:`hermitian_form`.
    """

    manifold: Hypersurface
    sections: Sections
    parameters: Float[AnyArray, "s s"]

    def at(self, points: Points) -> Array:
        """g at points in their charts, shape (N, n, n)."""

        def one(metric: AlgebraicMetric, point: Points) -> Array:
            jets = section_jets(metric.sections, jax.tree.map(lambda x: x[None], point))
            parameters = jnp.asarray(metric.parameters)
            return algebraic_metric(parameters, jets, metric.sections.degree)[0]

        return map_tiles(carrying(jax.vmap(one, (None, 0)), self), points, 1024)
