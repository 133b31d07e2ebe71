"""All roots of many small complex polynomials at once, on the accelerator."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex


def polynomial_roots(coefficients: Complex[Array, "d1 b"]) -> Complex[Array, "d b"]:
    """The d roots of sum_k c_k t^k for each of b polynomials, by Aberth-Ehrlich iteration.

    All roots move together, t_i <- t_i - w_i / (1 - w_i sum_(j != i) 1 / (t_i - t_j)) with the
    Newton correction w = p / p'; the order of convergence is 3 at simple roots.  The batch is the
    last axis, so that the small loops over roots and coefficients unroll into wide arithmetic.

    Args:
        coefficients: c_k of shape (d+1, b), the leading one c_d not zero.

    Returns:
        Roots of shape (d, b), in no special order; NaN where the iteration broke down.
    """
    degree = coefficients.shape[0] - 1
    real = coefficients.real.dtype
    tolerance = jnp.finfo(real).eps ** 0.5
    # the geometric mean of the root moduli, and an angle that no symmetric polynomial prefers
    radius = (jnp.abs(coefficients[0]) / jnp.abs(coefficients[-1])) ** (1 / degree)
    angle = (2 * jnp.pi * jnp.arange(degree) / degree + 0.4).astype(real)
    start = radius * jnp.exp(1j * angle)[:, None]

    def correction(t: Array) -> Array:
        value, slope = jnp.broadcast_to(coefficients[-1], t.shape), jnp.zeros_like(t)
        for k in range(degree - 1, -1, -1):
            value, slope = value * t + coefficients[k], slope * t + value
        newton = value / slope
        repulsion = jnp.zeros_like(t)
        for shift in range(1, degree):
            gap = t - jnp.roll(t, shift, axis=0)
            repulsion = repulsion + gap.conj() / (gap.real**2 + gap.imag**2)
        return newton / (1 - newton * repulsion)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        _, count, moving = carry
        return (count < 60) & moving

    def iterate(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        t, count, _ = carry
        step = correction(t)
        moving = jnp.any(jnp.abs(step) > tolerance * jnp.abs(t))
        return t - step, count + 1, moving

    roots, _, _ = jax.lax.while_loop(unfinished, iterate, (start, jnp.array(0), jnp.array(True)))
    return roots
