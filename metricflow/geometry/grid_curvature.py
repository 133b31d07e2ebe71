"""Curvature and covariant derivatives of tensor fields on a :class:`.PeriodicGrid`.

A metric g has the shape (N_1, ..., N_k, k, k), the grid axes first, for ds^2 = g_ij dx^i dx^j; all
tensors have lower indices unless a name says otherwise.  Signs and order of the indices are those
of :mod:`.curvature`: R_ijkl = K (g_ik g_jl - g_il g_jk) for constant curvature, R_jl = R^i_jil.

Derivatives are spectral.  Products make modes that the grid does not hold, so an identity of the
continuum holds up to the highest modes of the fields: to rounding once those have died out.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import AnyArray
from .curvature import _einsum, mixed_riemann, raised_connection
from .hermitian import _factor, _minor
from .periodic_grid import PeriodicGrid

Field = Float[AnyArray, "..."]
Result = Float[Array, "..."]


def metric_inverse(g: Float[AnyArray, "*b k k"]) -> Float[Array, "*b k k"]:
    """g^ij, by cofactors; infinite or NaN where g is singular."""
    g = jnp.asarray(g)
    every = range(g.shape[-1])
    determinant = metric_determinant(g)
    # a symmetric matrix has symmetric cofactors
    rows = [
        jnp.stack([(-1) ** (a + b) * _minor(g, _without(every, a), _without(every, b))
                   for b in every], axis=-1)
        for a in every
    ]  # fmt: skip
    return jnp.stack(rows, axis=-2) / determinant[..., None, None]


def metric_determinant(g: Float[AnyArray, "*b k k"]) -> Float[Array, "*b"]:
    """det g, by cofactors."""
    g = jnp.asarray(g)
    every = tuple(range(g.shape[-1]))
    return _minor(g, every, every)


def metric_pivots(g: Float[AnyArray, "*b k k"]) -> Float[Array, "*b k"]:
    """The pivots of g = L D L^T: g is positive definite if and only if all are above zero."""
    return jnp.stack(_factor(jnp.asarray(g))[1], axis=-1)


def volume_density(g: Float[AnyArray, "*b k k"]) -> Float[Array, "*b"]:
    """sqrt(det g), so that dV = sqrt(det g) d^k x; NaN where the determinant is negative."""
    return jnp.sqrt(metric_determinant(g))


def tensor_norm(g: Float[AnyArray, "*b k k"], h: Float[AnyArray, "*b k k"]) -> Float[Array, "*b"]:
    """|h|_g = (g^ik g^jl h_ij h_kl)^(1/2) at every point."""
    mixed = metric_inverse(g) @ jnp.asarray(h)
    return jnp.sqrt(jnp.maximum(_einsum("...ij,...ji->...", mixed, mixed), 0))


def grid_christoffel(grid: PeriodicGrid, g: Field) -> Result:
    """Gamma^i_jk = g^il (d_j g_lk + d_k g_lj - d_l g_jk) / 2, shape (*grid, i, j, k).

    Raises:
        ValueError: g does not have the shape (*grid, k, k).
    """
    g = check_tensor("g", grid, g)
    return raised_connection(metric_inverse(g), grid.gradient(g))


def grid_riemann(grid: PeriodicGrid, g: Field) -> Result:
    """R_ijkl with all indices lowered, as in :func:`.riemann`, shape (*grid, i, j, k, l).

    Raises:
        ValueError: g does not have the shape (*grid, k, k).
    """
    g = check_tensor("g", grid, g)
    gamma = grid_christoffel(grid, g)
    return _einsum("...im,...mjkl->...ijkl", g, mixed_riemann(gamma, grid.gradient(gamma)))


def grid_ricci(grid: PeriodicGrid, g: Field) -> Result:
    """R_jl = d_i Gamma^i_jl - d_l Gamma^i_ij + Gamma^i_ip Gamma^p_jl - Gamma^i_lp Gamma^p_ij.

    Symmetric to the last bit; the Riemann tensor is not formed.

    Raises:
        ValueError: g does not have the shape (*grid, k, k).

    Source: RF 5
    """
    g = check_tensor("g", grid, g)
    return _ricci(grid, grid_christoffel(grid, g))


def grid_scalar(grid: PeriodicGrid, g: Field) -> Result:
    """The scalar curvature R = g^jl R_jl, shape (*grid).

    Raises:
        ValueError: g does not have the shape (*grid, k, k).
    """
    g = check_tensor("g", grid, g)
    return _trace(metric_inverse(g), grid_ricci(grid, g))


def covariant_derivative(grid: PeriodicGrid, g: Field, tensor: Field) -> Result:
    """D_k of a tensor with lower indices, the new index last: for two, D_k h_ij as [..., i, j, k].

        D_k h_ij = d_k h_ij - Gamma^p_ki h_pj - Gamma^p_kj h_ip

    Twice it gives second derivatives, D_l D_k h_ij as [..., i, j, k, l].

    Args:
        grid: the grid.
        g: the metric.
        tensor: any number of lower indices after the grid axes; none for a function.

    Raises:
        ValueError: g does not have the shape (*grid, k, k), or the tensor that of a tensor.
    """
    g = check_tensor("g", grid, g)
    tensor = jnp.asarray(tensor)
    rank = tensor.ndim - grid.dim
    if tensor.shape != (*grid.shape, *(grid.dim,) * rank):
        raise ValueError(
            f"tensor: expected indices of {grid.dim} values after the grid axes {grid.shape}, "
            f"got shape {tensor.shape}"
        )
    return _covariant(grid, grid_christoffel(grid, g), tensor)


def grid_hessian(grid: PeriodicGrid, g: Field, f: Field) -> Result:
    """D_i D_j f = d_i d_j f - Gamma^k_ij d_k f, shape (*grid, i, j).

    Raises:
        ValueError: g or f does not stand on this grid.
    """
    g, f = check_tensor("g", grid, g), check_function("f", grid, f)
    slope = grid.gradient(f)
    drift = _einsum("...kij,...k->...ij", grid_christoffel(grid, g), slope)
    return grid.gradient(slope) - drift


def grid_laplacian(grid: PeriodicGrid, g: Field, f: Field) -> Result:
    """The Laplace-Beltrami operator |g|^(-1/2) d_i (|g|^(1/2) g^ij d_j f), shape (*grid).

    In this form its integral over dV vanishes and it is self-adjoint to rounding on any grid; it is
    the trace of :func:`grid_hessian` up to the highest modes.

    Raises:
        ValueError: g or f does not stand on this grid.
    """
    g, f = check_tensor("g", grid, g), check_function("f", grid, f)
    density = volume_density(g)
    return divergence(grid, _flux(grid, g, f) * density[..., None]) / density


def divergence(grid: PeriodicGrid, field: Field) -> Result:
    """d_i of the last index i: for vector densities, so no metric enters."""
    field = jnp.asarray(field)
    parts = [grid.derivative(field[..., a], a) for a in range(grid.dim)]
    return sum(parts[1:], start=parts[0])


def squared_gradient(grid: PeriodicGrid, g: Field, f: Field) -> Result:
    """|grad f|^2 = g^ij d_i f d_j f, shape (*grid).

    Raises:
        ValueError: g or f does not stand on this grid.
    """
    g, f = check_tensor("g", grid, g), check_function("f", grid, f)
    return _einsum("...i,...i->...", _flux(grid, g, f), grid.gradient(f))


def lie_derivative(grid: PeriodicGrid, g: Field, vector: Field) -> Result:
    """(L_W g)_ij = W^k d_k g_ij + g_kj d_i W^k + g_ik d_j W^k = D_i W_j + D_j W_i.

    Args:
        grid: the grid.
        g: any symmetric tensor with lower indices.
        vector: W^k, shape (*grid, k).

    Raises:
        ValueError: g or the vector does not have its shape.
    """
    g, vector = check_tensor("g", grid, g), jnp.asarray(vector)
    if vector.shape != (*grid.shape, grid.dim):
        raise ValueError(
            f"vector: expected the shape {(*grid.shape, grid.dim)}, got {vector.shape}"
        )
    # slope[k, i] = d_i W^k
    stretched = _einsum("...kj,...ki->...ij", g, grid.gradient(vector))
    moved = _einsum("...ijk,...k->...ij", grid.gradient(g), vector)
    return moved + stretched + stretched.swapaxes(-2, -1)


def lichnerowicz(grid: PeriodicGrid, g: Field, h: Field, *, ricci_terms: bool = False) -> Result:
    """(L h)_ij = Delta h_ij + 2 R_ikjl h^kl, Delta = g^pq D_p D_q.

    In the order of the indices used here the second term is 2 (g_ij tr h - h_ij) on the unit
    sphere.  The paper writes Rm_iklj h^kl, of the opposite sign in this order; its convention for
    Rm must then be the opposite one, for only this sign is the linearisation of -2 Ric.

    Args:
        grid: the grid.
        g: the metric.
        h: a symmetric tensor.
        ricci_terms: add - R_i^k h_kj - R_j^k h_ik, which vanish on a Ricci-flat background; with
            them this is the linearised Ricci-DeTurck velocity at any background.

    Raises:
        ValueError: g or h does not have the shape (*grid, k, k).

    Source: RF 19
    """
    g, h = check_tensor("g", grid, g), check_tensor("h", grid, h)
    inverse, gamma = metric_inverse(g), grid_christoffel(grid, g)
    second = _covariant(grid, gamma, _covariant(grid, gamma, h))
    mixed = mixed_riemann(gamma, grid.gradient(gamma))
    # R_ikjl h^kl = g_ip R^p_kjl h^kl
    raised = inverse @ h @ inverse
    curved = g @ _einsum("...pkjl,...kl->...pj", mixed, raised)
    found = _einsum("...pq,...ijpq->...ij", inverse, second) + curved + curved.swapaxes(-2, -1)
    if ricci_terms:
        twisted = _ricci(grid, gamma) @ inverse @ h
        found = found - twisted - twisted.swapaxes(-2, -1)
    return found


def ricci_linearisation(grid: PeriodicGrid, g: Field, h: Field) -> Result:
    """D[-2 Ric](h)_ij = Delta h_ij + D_i V_j + D_j V_i + 2 R_ikjl h^kl - R_i^k h_kj - R_j^k h_ik,

    V_i = g^pq (D_i h_pq / 2 - D_q h_pi).  The paper calls the last three terms O(h).

    Args:
        grid: the grid.
        g: the metric at which -2 Ric is differentiated.
        h: the direction, a symmetric tensor.

    Raises:
        ValueError: g or h does not have the shape (*grid, k, k).

    Source: RF 6, RF 26 (corrected)
    """
    g, h = check_tensor("g", grid, g), check_tensor("h", grid, h)
    inverse, gamma = metric_inverse(g), grid_christoffel(grid, g)
    slope = _covariant(grid, gamma, h)
    trace = _einsum("...pq,...pqi->...i", inverse, slope)
    v = trace / 2 - _einsum("...pq,...piq->...i", inverse, slope)
    twisted = _covariant(grid, gamma, v)
    return lichnerowicz(grid, g, h, ricci_terms=True) + twisted + twisted.swapaxes(-2, -1)


def check_tensor(name: str, grid: PeriodicGrid, tensor: AnyArray) -> Array:
    """Return a real field of k x k matrices, or raise ValueError."""
    tensor = jnp.asarray(tensor)
    expected = (*grid.shape, grid.dim, grid.dim)
    if tensor.shape != expected or not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ValueError(
            f"{name}: expected real components of shape {expected}, the grid first, got "
            f"{tensor.dtype} of shape {tensor.shape}"
        )
    return tensor


def check_function(name: str, grid: PeriodicGrid, f: AnyArray) -> Array:
    """Return a real function on the grid, or raise ValueError."""
    f = jnp.asarray(f)
    if f.shape != grid.shape or not jnp.issubdtype(f.dtype, jnp.floating):
        raise ValueError(
            f"{name}: expected real values of shape {grid.shape}, got {f.dtype} of shape {f.shape}"
        )
    return f


def _ricci(grid: PeriodicGrid, gamma: Array) -> Array:
    trace = _einsum("...iij->...j", gamma)
    flow = divergence(grid, jnp.moveaxis(gamma, -3, -1)) - grid.gradient(trace)
    product = _einsum("...p,...pjl->...jl", trace, gamma)
    found = flow + product - _einsum("...ilp,...pij->...jl", gamma, gamma)
    # the gradient of the trace is symmetric up to the highest modes only
    return (found + found.swapaxes(-2, -1)) / 2


def _covariant(grid: PeriodicGrid, gamma: Array, tensor: Array) -> Array:
    found = grid.gradient(tensor)
    for axis in range(grid.dim, tensor.ndim):
        last = jnp.moveaxis(tensor, axis, -1)
        gap = (slice(None),) * grid.dim + (None,) * (tensor.ndim - grid.dim - 1)
        # Gamma^p_ki T_..p.. as [..., i, k]
        twisted = _einsum("...p,...pik->...ik", last, gamma[gap])
        found = found - jnp.moveaxis(twisted, -2, axis)
    return found


def _flux(grid: PeriodicGrid, g: Array, f: Array) -> Array:
    """grad^i f = g^ij d_j f."""
    return _einsum("...ij,...j->...i", metric_inverse(g), grid.gradient(f))


def _trace(inverse: Array, h: Array) -> Array:
    return _einsum("...ij,...ij->...", inverse, h)


def _without(every: range, a: int) -> tuple[int, ...]:
    return tuple(i for i in every if i != a)
