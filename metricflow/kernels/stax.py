"""Architectures of neural-tangents as kernels of a flow.

The package is optional: nothing here imports it before :func:`load` is called.
"""

import dataclasses
import types
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .._pytree import register_dataclass
from .infinite_width import check_statistic, real_pair


@register_dataclass
@dataclasses.dataclass(frozen=True)
class StaxKernel:
    """The infinite-width kernel of any architecture of stax: convolutions, attention, branches.

    K[a, b] = kernel_fn(x_a, y_b, statistic) with x = (Re z, Im z) for complex points, whose
    imaginary parts stax would drop, and real vectors as they are.  Rounded to the dtype of the
    points: with x64 on, stax answers in float64.

    Attributes:
        kernel_fn: the third of the functions that an architecture of stax is made of; see
            :func:`load`.  For images, ``lambda x, y, get: kernel_fn(x.reshape(...), ...)``.
        statistic: ``"ntk"`` or ``"nngp"``.

    Raises:
        ValueError: no function, an unknown statistic; when called, a kernel that is not (N1, N2).

    Source: MF 2.9, MF section 3.2.
    """

    kernel_fn: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    statistic: str = dataclasses.field(default="ntk", metadata={"static": True})

    reads_vectors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the options."""
        if not callable(self.kernel_fn):
            raise ValueError(
                "kernel_fn: expected a function, the third of those that stax.serial returns, got "
                f"{type(self.kernel_fn).__name__}; unpack _, _, kernel_fn = stax.serial(...)"
            )
        check_statistic(self.statistic)

    def matrix(
        self,
        z1: Complex[Array, "b1 k"] | Float[Array, "b1 k"],
        z2: Complex[Array, "b2 k"] | Float[Array, "b2 k"],
    ) -> Float[Array, "b1 b2"]:
        """The kernel for all pairs."""
        x, y = real_pair(z1, z2)
        found = self.kernel_fn(x, y, self.statistic)
        if jnp.shape(found) != (len(x), len(y)):
            raise ValueError(
                f"kernel_fn: expected a kernel of shape {(len(x), len(y))}, got "
                f"{jnp.shape(found)}; end the architecture with Flatten or GlobalAvgPool and Dense"
            )
        return jnp.asarray(found, x.dtype)


def load() -> types.ModuleType:
    """Return the module ``neural_tangents``, whose ``stax`` builds architectures.

    The package is archived and works with few versions of jax; see the message of the error.

    Raises:
        ImportError: it is missing, or a version that was not tried.
    """
    from .. import _neural_tangents  # here, so that importing the library stays light

    return _neural_tangents.load()
