"""Networks and models as functions of one point, and their expansion in the parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .models import ComponentModel
from .potentials import PotentialModel


def one_point(apply_fn: Any) -> Callable[[Any, Any], Array]:
    """(parameters, row) -> the c real outputs at one point, shape (c,).

    Args:
        apply_fn: a function (parameters, x) of one point that gives c numbers or one; a Flax module
            or its ``apply``; or a model, whose row is one of ``model.prepare(points)`` and whose
            outputs are the real components of the metric.

    Raises:
        ValueError: when called, if the outputs are complex or no vector.
    """
    if isinstance(apply_fn, ComponentModel | PotentialModel):

        def components(params: Any, row: Any) -> Array:
            batch = jax.tree.map(lambda leaf: leaf[None], row)
            return apply_fn.components(params, batch)[0]

        return components
    apply = getattr(apply_fn, "apply", apply_fn)

    def outputs(params: Any, row: Any) -> Array:
        found = jnp.asarray(apply(params, row))
        if found.ndim > 1 or jnp.issubdtype(found.dtype, jnp.complexfloating):
            raise ValueError(
                "apply_fn: expected real outputs of shape (c,) at one point, got "
                f"{found.dtype} of shape {found.shape}; flatten them, and pack Hermitian matrices "
                "with geometry.hermitian_pack"
            )
        return jnp.atleast_1d(found)

    return outputs


@functools.lru_cache(maxsize=64)
def tangent_network(apply_fn: Any) -> Callable[[Any, Any], Array]:
    """The linear part alone: ({"origin": theta_0, "change": v}, x) -> sum_theta v df(theta_0, x).

    As the network of a model it starts at the reference metric; only the change is learned.  One
    function for each network, whatever the origin: programs are compiled once.

    Args:
        apply_fn: f, see :func:`one_point`.

    Source: MF 2.10
    """
    apply = one_point(apply_fn)

    def push(params: Any, x: Any) -> Array:
        origin = jax.lax.stop_gradient(params["origin"])
        return jax.jvp(lambda theta: apply(theta, x), (origin,), (params["change"],))[1]

    return push


def linearised(apply_fn: Any, origin: Any) -> Callable[[Any, Any], Array]:
    """f_L(theta, x) = f(theta_0, x) + sum_theta (theta - theta_0) df(theta_0, x)/dtheta.

    Its tangent kernel does not move: at every theta it is that of f at theta_0, so gradient descent
    of f_L is the flow of a frozen kernel, and infinitely wide networks learn like it.

    Args:
        apply_fn: f, see :func:`one_point`.
        origin: theta_0, real or complex.

    Returns:
        f_L, to be used like f.

    Source: MF 2.10, MF 2.11
    """
    apply = one_point(apply_fn)
    origin = jax.tree.map(jnp.asarray, origin)

    def expansion(params: Any, x: Any) -> Array:
        change = jax.tree.map(lambda p, o: jnp.subtract(p, o).astype(o.dtype), params, origin)
        value, slope = jax.jvp(lambda theta: apply(theta, x), (origin,), (change,))
        return value + slope

    return expansion
