"""Kaehler metrics of flat complex tori C^n / lattice, on a periodic grid of 2n real axes.

The axes are Re x^1 ... Re x^n, Im x^1 ... Im x^n.  A metric is g = g_0 + d dbar phi with a
constant Hermitian g_0 and a real potential phi on the grid; the Calabi-Yau metric is g_0, and the
holomorphic volume form is dx^1 ... dx^n, so that mu_CY is the flat measure.  All derivatives are
spectral.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from .._pytree import register_dataclass
from .hermitian import hermitian_determinant, hermitian_inverse
from .periodic_grid import PeriodicGrid

_PRECISION = jax.lax.Precision.HIGHEST


@register_dataclass
@dataclasses.dataclass(frozen=True)
class KaehlerTorus:
    """A flat complex torus with the constant metric g_0.

    Attributes:
        grid: with 2n axes, real parts first.
        reference: g_0, a positive Hermitian matrix as nested tuples; by default the identity.

    Raises:
        ValueError: an odd number of axes, or a reference that is no positive Hermitian matrix.
    """

    grid: PeriodicGrid = dataclasses.field(metadata={"static": True})
    reference: tuple[tuple[complex | float, ...], ...] = dataclasses.field(
        default=(), metadata={"static": True}
    )

    def __post_init__(self) -> None:
        """Check the axes and the reference."""
        if self.grid.dim % 2:
            raise ValueError(
                f"grid: expected an even number of axes, real parts and imaginary parts, got "
                f"{self.grid.dim}"
            )
        n = self.dim
        matrix = np.asarray(self.reference or np.eye(n), complex)
        good = matrix.shape == (n, n) and np.allclose(matrix, matrix.conj().T)
        if not good or np.min(np.linalg.eigvalsh(matrix)) <= 0:
            raise ValueError(
                f"reference: expected a positive Hermitian matrix of shape ({n}, {n}), got "
                f"{self.reference!r}"
            )
        object.__setattr__(self, "reference", tuple(map(tuple, matrix.tolist())))

    @property
    def dim(self) -> int:
        """The complex dimension n."""
        return self.grid.dim // 2

    def slopes(self, field: Float[Array, "..."]) -> Complex[Array, "... n"]:
        """d_a f, in a new last axis."""
        real = self.grid.gradient(field)
        return (real[..., : self.dim] - 1j * real[..., self.dim :]) / 2

    def hessians(self, field: Float[Array, "..."]) -> Complex[Array, "... n n"]:
        """d_a dbar_b f, Hermitian."""
        n, along = self.dim, [self.grid.derivative(field, a) for a in range(self.grid.dim)]
        rows = []
        for a in range(n):
            row = []
            for b in range(n):
                even = self.grid.derivative(along[a], b) + self.grid.derivative(along[n + a], n + b)
                odd = self.grid.derivative(along[a], n + b) - self.grid.derivative(along[n + a], b)
                row.append((even + 1j * odd) / 4)
            rows.append(jnp.stack(row, axis=-1))
        return jnp.stack(rows, axis=-2)

    def metric(self, potential: Float[Array, "..."]) -> Complex[Array, "... n n"]:
        """g = g_0 + d dbar phi.

        Source: MF B.5, MF B.6.
        """
        hessian = self.hessians(potential)
        return jnp.asarray(self.reference, hessian.dtype) + hessian

    def volume_ratio(self, g: Complex[Array, "... n n"]) -> Float[Array, "..."]:
        """eta = det g / det g_0, of mean one: the volume is that of g_0 for every potential."""
        return hermitian_determinant(g) / self.reference_volume

    @property
    def reference_volume(self) -> float:
        """det g_0."""
        return float(np.linalg.det(np.asarray(self.reference)).real)

    def laplacian(self, g: Complex[Array, "... n n"], field: Float[Array, "..."]) -> Array:
        """g^(a bbar) d_a dbar_b f."""
        return trace(g, self.hessians(field))

    def ricci(self, g: Complex[Array, "... n n"]) -> Complex[Array, "... n n"]:
        """R_(a bbar) = -d_a dbar_b ln det g."""
        return -self.hessians(jnp.log(hermitian_determinant(g)))

    def ricci_scalar(self, g: Complex[Array, "... n n"]) -> Float[Array, "..."]:
        """R = g^(a bbar) R_(a bbar)."""
        return trace(g, self.ricci(g))

    def slope_squared(self, g: Complex[Array, "... n n"], field: Float[Array, "..."]) -> Array:
        """|d f|^2 = g^(a bbar) d_a f dbar_b f."""
        slope = self.slopes(field)
        inverse = hermitian_inverse(g)
        return jnp.einsum(
            "...ba,...a,...b->...", inverse, slope, slope.conj(), precision=_PRECISION
        ).real

    def double_divergence(self, tensor: Complex[Array, "... n n"]) -> Float[Array, "..."]:
        """d_a dbar_b T^(a bbar) of a Hermitian field T[a, b] with upper indices.

        The adjoint of :meth:`hessians`: int T^(a bbar) d_a dbar_b f = int f d_a dbar_b T^(a bbar).
        """
        n, found = self.dim, jnp.zeros(self.grid.shape, tensor.real.dtype)
        for a in range(n):
            for b in range(n):
                # the sum over (a, b) and (b, a) is real: twice what the entry gives
                re, im = tensor[..., a, b].real, tensor[..., a, b].imag
                x, y = self.grid.derivative(re, a), self.grid.derivative(re, n + a)
                u, v = self.grid.derivative(im, a), self.grid.derivative(im, n + a)
                # Re (d_x - i d_y)_a (d_x + i d_y)_b (re + i im) / 4
                found = found + self.grid.derivative(x + v, b) / 4
                found = found + self.grid.derivative(y - u, n + b) / 4
        return found


def trace(g: Complex[Array, "... n n"], tensor: Complex[Array, "... n n"]) -> Float[Array, "..."]:
    """g^(a bbar) T_(a bbar) of a Hermitian field."""
    inverse = hermitian_inverse(g)
    return jnp.einsum("...ba,...ab->...", inverse, tensor, precision=_PRECISION).real


def raised(
    g: Complex[Array, "... n n"], tensor: Complex[Array, "... n n"]
) -> Complex[Array, "... n n"]:
    """T^(a bbar) = g^(a dbar) g^(c bbar) T_(c dbar) of a Hermitian field, as T[a, b].

    With T_(c dbar) = t[c, d] and the inverse matrix carrying the indices (bbar, a), the pairing
    T^(a bbar) h_(a bbar) is sum_ab T[a, b] h[a, b].
    """
    inverse = hermitian_inverse(g)
    return jnp.einsum("...da,...cd,...bc->...ab", inverse, tensor, inverse, precision=_PRECISION)
