"""Trees of arrays in single or double precision."""

from typing import Any

import jax
import jax.numpy as jnp


def in_precision(tree: Any, precision: str) -> Any:
    """Floating point arrays in single or double precision, others as they are."""
    real, cplx = (jnp.float32, jnp.complex64) if precision == "float32" else (float, complex)

    def cast(x: Any) -> Any:
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            return x.astype(cplx)
        return x.astype(real) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)
