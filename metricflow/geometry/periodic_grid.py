"""Flat tori R^k / (L_1 Z + ... + L_k Z) as regular grids, with spectral derivatives.

Fields stand on the grid axes first: a scalar is (N_1, ..., N_k), a tensor (N_1, ..., N_k, i, j).
A band-limited field is differentiated and integrated to rounding.  The numbers of points are odd,
for then derivatives commute, are exactly antisymmetric under the integral, and vanish on constants
only; an even grid has one mode too many, whose derivative is nobody's.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .. import _checks
from .._annotations import Signed
from .._pytree import register_dataclass

# a GPU rounds the factors of float32 products to ten bits without it
_PRECISION = jax.lax.Precision.HIGHEST
_LONG = 96  # points on an axis, up to which a matrix product is faster than a transform


@register_dataclass
@dataclasses.dataclass(frozen=True)
class PeriodicGrid:
    """A regular grid on a flat torus; point (j_1, ..., j_k) stands at x_a = j_a L_a / N_a.

    Attributes:
        shape: N_a, odd numbers of at least 3.
        lengths: L_a; by default 2 pi each, so that wave numbers are integers.

    Raises:
        ValueError: an even number of points, no axis, a length for some axes only.
    """

    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    lengths: tuple[float, ...] = dataclasses.field(default=(), metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the numbers of points and fill in the lengths."""
        shape = tuple(int(n) for n in self.shape)
        if not shape or any(n < 3 or n % 2 == 0 for n in shape):
            raise ValueError(
                f"shape: expected odd numbers of at least 3, one for each axis, got {self.shape}"
            )
        lengths = tuple(float(x) for x in self.lengths) or (2 * math.pi,) * len(shape)
        if len(lengths) != len(shape) or not all(0 < x < math.inf for x in lengths):
            raise ValueError(
                f"lengths: expected {len(shape)} finite numbers above 0, got {self.lengths}"
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "lengths", lengths)

    @property
    def dim(self) -> int:
        """The number k of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of points."""
        return math.prod(self.shape)

    @property
    def cell(self) -> float:
        """The flat volume of one cell, by which sums over points become integrals."""
        return math.prod(self.lengths) / self.size

    def points(self, dtype: object = None) -> Float[Array, "... k"]:
        """The coordinates x, shape (N_1, ..., N_k, k)."""
        real = _checks.real_dtype(dtype)
        axes = [np.arange(n) * (x / n) for n, x in zip(self.shape, self.lengths, strict=True)]
        return jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), real)

    def derivative(self, field: Float[Array, "..."], axis: Signed) -> Float[Array, "..."]:
        """d_a of every entry, exact for band-limited fields.

        Raises:
            ValueError: a field that does not stand on this grid.
        """
        field = self._field(field)
        if self.shape[axis] <= _LONG:
            matrix = jnp.asarray(_matrix(self.shape[axis], self.lengths[axis]), field.dtype)
            moved = jnp.tensordot(matrix, field, axes=(1, axis), precision=_PRECISION)
            return jnp.moveaxis(moved, 0, axis)
        count = self.shape[axis]
        waves = 2 * np.pi / self.lengths[axis] * np.arange(count // 2 + 1)
        wave = jnp.asarray(waves, field.dtype).reshape(-1, *(1,) * (field.ndim - axis - 1))
        return jnp.fft.irfft(1j * wave * jnp.fft.rfft(field, axis=axis), count, axis=axis)

    def gradient(self, field: Float[Array, "..."]) -> Float[Array, "..."]:
        """d_a of every entry for all a, in a new last axis (k,)."""
        return jnp.stack([self.derivative(field, a) for a in range(self.dim)], axis=-1)

    def laplacian(self, field: Float[Array, "..."]) -> Float[Array, "..."]:
        """The flat sum_a d_a d_a of every entry."""
        return self.multiply(field, lambda square: -square)

    def multiply(
        self, field: Float[Array, "..."], multiplier: Callable[[Array], Array]
    ) -> Float[Array, "..."]:
        """The Fourier multiplier m(|k|^2) on every entry.

        ``lambda s: jnp.exp(-width**2 * s / 2)`` convolves with the periodic Gaussian of integral
        one, ``lambda s: 1 / (1 + c * s)`` solves (1 - c Laplacian) u = field.

        Args:
            field: any field.
            multiplier: the function m; it sees the squares of the wave numbers of a half spectrum.
        """
        field = self._field(field)
        squares = jnp.asarray(_squares(self.shape, self.lengths), field.dtype)
        return self._filtered(field, multiplier(squares))

    def smooth(self, field: Float[Array, "..."]) -> Float[Array, "..."]:
        """Without the modes above two thirds of the largest wave number on any axis.

        Products of fields fold their highest modes back onto others; cut away, the rest of a
        product of two is exact.
        """
        field = self._field(field)
        return self._filtered(field, jnp.asarray(_low_modes(self.shape), field.dtype))

    def mean(self, field: Float[Array, "..."]) -> Float[Array, "..."]:
        """The flat mean of every entry: the integral over d^k x divided by the flat volume."""
        return jnp.mean(self._field(field), axis=tuple(range(self.dim)))

    def integral(self, field: Float[Array, "..."]) -> Float[Array, "..."]:
        """The integral of every entry over d^k x."""
        return math.prod(self.lengths) * self.mean(field)

    def random_field(
        self,
        key: Key[Array, ""],
        modes: int,
        *,
        entries: tuple[int, ...] = (),
        dtype: object = None,
    ) -> Float[Array, "..."]:
        """A smooth random field of mean zero and mean square one in every entry.

        Args:
            key: random key.
            modes: wave numbers |j_a| <= ``modes`` on each axis, all equally strong.
            entries: shape of the entries of a tensor.

        Raises:
            ValueError: more modes than the grid has.
        """
        modes = _checks.positive_integer("modes", modes)
        if 2 * modes + 1 > min(self.shape):
            raise ValueError(
                f"modes: a grid of {self.shape} points holds {(min(self.shape) - 1) // 2}, "
                f"got {modes}"
            )
        noise = jax.random.normal(key, (*self.shape, *entries), _checks.real_dtype(dtype))
        kept = jnp.asarray(_low_modes(self.shape, modes), noise.dtype)
        field = self._filtered(noise, kept.at[(0,) * self.dim].set(0))
        return field / jnp.sqrt(self.mean(field**2))

    def _filtered(self, field: Array, factor: Array) -> Array:
        """A factor for each mode of ``rfftn``, on every entry."""
        axes = tuple(range(self.dim))
        factor = factor.reshape(*factor.shape, *(1,) * (field.ndim - self.dim))
        spectrum = factor * jnp.fft.rfftn(field, axes=axes)
        return jnp.fft.irfftn(spectrum, self.shape, axes=axes).astype(field.dtype)

    def _field(self, field: Array) -> Array:
        field = jnp.asarray(field)
        if field.shape[: self.dim] != self.shape or jnp.iscomplexobj(field):
            raise ValueError(
                f"field: expected real numbers of shape {self.shape} + entries, the grid first, "
                f"got {field.dtype} of shape {field.shape}"
            )
        return field


@functools.cache
def _matrix(count: int, length: float) -> np.ndarray:
    """The derivative of the trigonometric polynomial through an odd number of values."""
    j = np.arange(count)
    gap = j[:, None] - j
    angle = np.pi * gap / count
    with np.errstate(divide="ignore", invalid="ignore"):
        entries = np.where(gap == 0, 0.0, (-1.0) ** gap / (2 * np.sin(angle)))
    return 2 * np.pi / length * entries


@functools.cache
def _squares(shape: tuple[int, ...], lengths: tuple[float, ...]) -> np.ndarray:
    """|k|^2 of the modes of ``rfftn``."""
    waves = [np.fft.fftfreq(n, x / n) * 2 * np.pi for n, x in zip(shape, lengths, strict=True)]
    waves[-1] = np.fft.rfftfreq(shape[-1], lengths[-1] / shape[-1]) * 2 * np.pi
    return np.sum([w**2 for w in np.meshgrid(*waves, indexing="ij")], axis=0)


@functools.cache
def _low_modes(shape: tuple[int, ...], modes: int | None = None) -> np.ndarray:
    """One for the modes of ``rfftn`` with all wave numbers at most ``modes``, zero for others."""
    kept = []
    for axis, n in enumerate(shape):
        index = np.arange(n // 2 + 1) if axis == len(shape) - 1 else np.fft.fftfreq(n, 1 / n)
        kept.append(np.abs(np.round(index)) <= ((n - 1) // 3 if modes is None else modes))
    return functools.reduce(np.multiply, np.meshgrid(*kept, indexing="ij")).astype(float)
