"""Kernels on R^d, and how a flow becomes local: normalised Gaussians, volume factors, their limit.

Points are real vectors (N, d), coordinates of a patch.  As the width goes to zero a Gaussian of
integral one becomes the delta function of d^dx; with the factor of a volume, that of a Riemannian
measure.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _checks
from .._checks import AnyArray
from .._pytree import register_dataclass
from ..ansatz import CosineNetwork
from .infinite_width import real_pair, squared_distances

Scalar = Float[Array, ""] | float
OnePoint = Callable[[Array], Array]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class UnitGaussian:
    """K = (2 pi width^2)^(-d/2) exp(-|x - x'|^2 / (2 width^2)), of integral one over R^d.

    The factor alpha of MF 2.27 is one; :class:`Rescaled` gives others.  As the width goes to zero K
    tends to the delta function that a local flow asks for.

    Attributes:
        width: standard deviation, in each direction.

    Raises:
        ValueError: width not above zero; when called, points that are not real vectors.

    Source: MF 2.24, MF 2.27.
    """

    width: Scalar

    reads_vectors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the width."""
        if isinstance(self.width, int | float):
            _checks.positive_number("width", self.width)

    def log_matrix(
        self, x1: Float[Array, "b1 d"], x2: Float[Array, "b2 d"]
    ) -> Float[Array, "b1 b2"]:
        """log K for all pairs."""
        x1, x2 = _real_vectors(x1, x2)
        variance = jnp.asarray(self.width, x1.dtype) ** 2
        share = x1.shape[1] / 2 * jnp.log(2 * jnp.pi * variance)
        return -squared_distances(x1, x2) / (2 * variance) - share

    def matrix(self, x1: Float[Array, "b1 d"], x2: Float[Array, "b2 d"]) -> Float[Array, "b1 b2"]:
        """K for all pairs."""
        return jnp.exp(self.log_matrix(x1, x2))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class PeriodicGaussian:
    """The unit Gaussian on a torus, summed over its images: K = sum_m K_R(x, x' + m L).

    Of integral one over a period; on a regular grid its sum over nodes times their volume is the
    Fourier multiplier exp(-width^2 k^2 / 2), see :meth:`metricflow.geometry.PeriodicGrid.multiply`.

    Attributes:
        width: standard deviation, in each direction; at most half of the shortest length, above
            which the kernel is constant to eight digits.
        lengths: L_a, the periods.

    Raises:
        ValueError: width not above zero or too large, a length not above zero; when called, points
            with another number of coordinates.

    Source: MF 2.24, MF 2.27.
    """

    width: Scalar
    lengths: tuple[float, ...] = dataclasses.field(metadata={"static": True})

    reads_vectors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        for length in self.lengths:
            _checks.positive_number("lengths", length)
        if isinstance(self.width, int | float):
            _checks.positive_number("width", self.width)
            if self.width > min(self.lengths) / 2:
                raise ValueError(
                    f"width: expected at most half of the shortest length {min(self.lengths)}, got "
                    f"{self.width}"
                )

    def matrix(self, x1: Float[Array, "b1 d"], x2: Float[Array, "b2 d"]) -> Float[Array, "b1 b2"]:
        """K for all pairs."""
        x1, x2 = _real_vectors(x1, x2)
        if x1.shape[1] != len(self.lengths):
            raise ValueError(
                f"x1, x2: expected {len(self.lengths)} coordinates, one for each length, got "
                f"{x1.shape[1]}"
            )
        variance = jnp.asarray(self.width, x1.dtype) ** 2
        found = jnp.ones((len(x1), len(x2)), x1.dtype)
        for a, length in enumerate(self.lengths):
            gap = x1[:, a, None] - x2[:, a]
            gap = gap - length * jnp.round(gap / length)
            # four images on either side: the next are 4.5 L away, exp(-40) at the largest width
            images = gap[..., None] + length * jnp.arange(-4, 5)
            one = jnp.sum(jnp.exp(-(images**2) / (2 * variance)), axis=-1)
            found = found * one / jnp.sqrt(2 * jnp.pi * variance)
        return found


@register_dataclass
@dataclasses.dataclass(frozen=True)
class InfiniteCosineNetwork:
    """The kernel of the output weights of an infinitely wide cosine network: a unit Gaussian.

        K = A^2 E[cos(w.x + b) cos(w.x' + b)] = A^2 / 2 exp(-s^2 |x - x'|^2 / 2d)

    with w ~ N(0, s^2 / d), b uniform on (-pi, pi) and A = sqrt(2) (s^2 / 2 pi d)^(d/4), which makes
    it :class:`UnitGaussian` of width sqrt(d) / s.  The flow is local for s to infinity.

    Attributes:
        weight_std: s of :class:`metricflow.ansatz.CosineNetwork` with ``normalised=True``.

    Raises:
        ValueError: s not above zero; when called, points that are not real vectors.

    Source: MF 2.34, MF 2.35, MF 2.36, MF 2.37.
    """

    weight_std: Scalar = 1.0

    reads_vectors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the weights."""
        if isinstance(self.weight_std, int | float):
            _checks.positive_number("weight_std", self.weight_std)

    def log_matrix(
        self, x1: Float[Array, "b1 d"], x2: Float[Array, "b2 d"]
    ) -> Float[Array, "b1 b2"]:
        """log K for all pairs."""
        x1, x2 = _real_vectors(x1, x2)
        std = jnp.asarray(self.weight_std, x1.dtype)
        return UnitGaussian(x1.shape[1] ** 0.5 / std).log_matrix(x1, x2)

    def matrix(self, x1: Float[Array, "b1 d"], x2: Float[Array, "b2 d"]) -> Float[Array, "b1 b2"]:
        """K for all pairs."""
        return jnp.exp(self.log_matrix(x1, x2))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class FourierFeatures:
    """The kernel of the output weights of a cosine network of N neurons (random Fourier features).

        K = sum_k dphi(x)/da_k dphi(x')/da_k = (A^2 / N) sum_k cos(w_k.x + b_k) cos(w_k.x' + b_k)

    Its mean over w and b is :class:`InfiniteCosineNetwork` for a normalised network; one draw is
    off by N^(-1/2).  K has rank N, and N numbers a point are all that it needs.

    Attributes:
        network: a :class:`metricflow.ansatz.CosineNetwork`.
        params: its parameters.

    Raises:
        ValueError: another network; when called, points that are not real vectors.

    Source: MF 2.33.
    """

    network: CosineNetwork = dataclasses.field(metadata={"static": True})
    params: Any

    reads_vectors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the network."""
        if not isinstance(self.network, CosineNetwork):
            raise ValueError(
                f"network: expected a CosineNetwork, got {type(self.network).__name__}; metric_ntk "
                "has the kernels of other networks"
            )

    def features(self, x: Float[Array, "b d"]) -> Float[Array, "b n"]:
        """dphi(x)/da_k = A N^(-1/2) cos(w_k.x + b_k)."""
        one = self.network.clone(outputs=None)
        fixed = {k: self.params["params"][k] for k in ("frequency", "phase")}

        def value(amplitude: Array, at: Array) -> Array:
            found: Any = one.apply({"params": {**fixed, "amplitude": amplitude}}, at)
            return found

        # linear in the amplitudes: any will do
        amplitude = jnp.zeros((self.network.width, 1), x.dtype)
        return jax.vmap(jax.grad(value), (None, 0))(amplitude, x)[..., 0]

    def matrix(self, x1: Float[Array, "b1 d"], x2: Float[Array, "b2 d"]) -> Float[Array, "b1 b2"]:
        """K for all pairs."""
        first, second = (self.features(x) for x in _real_vectors(x1, x2))
        return jnp.matmul(first, second.T, precision=jax.lax.Precision.HIGHEST)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Rescaled:
    """h(x) h(x') K(x, x'), the kernel of a network that is multiplied by a fixed function h.

    A local kernel Omega(x) delta(x - x') becomes h(x)^2 Omega(x) delta(x - x'): h reshapes what
    stands in front, and leaves the locality and the components alone.  h = alpha^(1/2) gives the
    factor alpha(x, x) = Omega(x) of MF 2.27; with :func:`volume_factor` the delta function belongs
    to a Riemannian measure.

    Attributes:
        kernel: any with ``matrix``, on R^d or in homogeneous coordinates.
        factor: h, a function of one point (k,) that gives one real number.  It is part of the
            compiled program: use one function again rather than making it anew.

    Raises:
        ValueError: a kernel without ``matrix``; when called, a factor that is no number or not
            finite.

    Source: MF 2.13, MF 2.15, MF 2.16, MF 2.17, MF 2.18, MF 2.28, MF 2.29.
    """

    kernel: Any
    factor: OnePoint = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the kernel."""
        if not callable(getattr(self.kernel, "matrix", None)):
            raise ValueError(
                f"kernel: expected one with matrix(z1, z2), got {type(self.kernel).__name__}"
            )
        if not callable(self.factor):
            raise ValueError(
                f"factor: expected a function of one point, got {type(self.factor).__name__}"
            )

    @property
    def reads_vectors(self) -> bool:
        """Whether the kernel takes real vectors."""
        return getattr(self.kernel, "reads_vectors", False)

    def matrix(self, z1: Array, z2: Array) -> Array:
        """The kernel for all pairs."""
        first, second = self._values(z1), self._values(z2)
        return first[:, None] * self.kernel.matrix(z1, z2) * second[None, :]

    def _values(self, z: Array) -> Array:
        found = jax.vmap(self.factor)(z)
        if found.shape != (len(z),) or not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(
                "factor: expected one real number at a point, got "
                f"{found.dtype} of shape {found.shape[1:]}"
            )
        _checks.finite("factor", found)
        return found


@dataclasses.dataclass(frozen=True)
class _VolumeFactor:
    """Equal for equal metrics, so that programs are compiled once."""

    metric: OnePoint

    def __call__(self, x: Array) -> Array:
        g = self.metric(x)
        if jnp.ndim(g) != 2 or g.shape[0] != g.shape[1] or jnp.iscomplexobj(g):
            raise ValueError(
                "metric: expected a real matrix (d, d) at a point, got "
                f"{g.dtype} of shape {jnp.shape(g)}; a Kaehler metric is real in 2n coordinates"
            )
        return jnp.linalg.det(g) ** -0.25


def volume_factor(metric: OnePoint) -> OnePoint:
    """h(x) = (det g(x))^(-1/4), which turns a delta function of d^dx into one of sqrt(det g) d^dx.

    Args:
        metric: g, from a point (d,) to a real symmetric matrix (d, d).  Where it is not positive h
            is NaN, which :class:`Rescaled` refuses.

    Source: MF 2.28, MF 2.29.
    """
    return _VolumeFactor(metric)


def kernel_velocity(
    kernel: Any,
    x: Float[AnyArray, "b1 d"],
    nodes: Float[AnyArray, "b2 d"],
    weights: Float[AnyArray, " b2"],
    slope: Float[AnyArray, "b2 c"],
) -> Float[Array, "b1 c"]:
    """dg_I(x)/dt = -sum_b w_b K(x, x_b) (dl/dg_I)(x_b), each component by itself.

    For a local kernel, and for a narrow one in the limit, that is -Omega(x) (dl/dg_I)(x).

    Args:
        kernel: one of this module, or any that takes real vectors.
        x: where, (N1, d).
        nodes, weights: a quadrature of the measure, sqrt(det g~) d^dx in MF 2.30.
        slope: dl/dg at the nodes, (N2, c).

    Raises:
        ValueError: weights or slopes that are not one for each node.

    Source: MF 2.30, MF 2.31.
    """
    weights, slope = jnp.asarray(weights), jnp.asarray(slope)
    if weights.shape != (len(nodes),) or slope.ndim != 2 or len(slope) != len(nodes):
        raise ValueError(
            f"weights, slope: expected shapes ({len(nodes)},) and ({len(nodes)}, c), one for each "
            f"node, got {weights.shape} and {slope.shape}"
        )
    matrix = kernel.matrix(jnp.asarray(x), jnp.asarray(nodes))
    return -jnp.matmul(matrix, weights[:, None] * slope, precision=jax.lax.Precision.HIGHEST)


def _real_vectors(x1: Array, x2: Array) -> tuple[Array, Array]:
    """Both sets, after a check that they are no homogeneous coordinates."""
    for name, x in (("x1", x1), ("x2", x2)):
        if jnp.iscomplexobj(x):
            raise ValueError(
                f"{name}: expected real vectors of shape (N, d), got {x.dtype} of shape "
                f"{jnp.shape(x)}; use kernels.Gaussian for points of projective space, or real "
                "coordinates of a patch"
            )
    return real_pair(x1, x2)
