"""Kernels of infinitely wide networks in closed form: the frozen tangent kernel and the covariance.

A layer sees a centred Gaussian pair (u, v) with E[u^2] = q, E[v^2] = r, E[u v] = K and sends it to
(s(u), s(v)).  Close to the diagonal K hardly differs from (q + r) / 2, and what matters is the
difference.  So the layers carry

    D = E[(u - v)^2] = q + r - 2 K,   S = E[(u + v)^2] = q + r + 2 K

in place of K, and every activation below gives E[(s(u) - s(v))^2] by a formula that is small where
D is small, with no difference of large numbers.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .. import _checks
from .._pytree import register_dataclass
from .._rounding import cut_below_zero, safe_sqrt
from ..ansatz import real_coordinates

Scalar = Float[Array, ""] | float

STATISTICS = ("ntk", "nngp")
# components of the input that are written out one by one; more of them go block by block
_BLOCK = 32


@register_dataclass
@dataclasses.dataclass(frozen=True)
class InfiniteNetwork:
    """The kernel of a fully connected network whose hidden widths have gone to infinity.

    f = W_L s(... s(W_0 x)), layer inputs h -> sigma_w W h / sqrt(fan_in) + sigma_b b with
    W, b ~ N(0, 1) (NTK parameterisation).  Over L hidden layers

        K_0 = sigma_w^2 x.x' / dim + sigma_b^2,   Theta_0 = K_0,
        K_(l+1) = sigma_w^2 E[s(u) s(v)] + sigma_b^2,
        Theta_(l+1) = K_(l+1) + sigma_w^2 E[s'(u) s'(v)] Theta_l,

    with (u, v) Gaussian of covariance K_l between x and x'.  K_L is the covariance of f at the
    start (``"nngp"``), Theta_L the kernel of its gradient descent (``"ntk"``), which no longer
    moves.  Independent networks for the components of a metric have the kernel delta_ik delta_jl
    Theta^ij(x, x'), and as they share one law, one Theta for all components.

    Activations: ``"relu"``, ``"erf"`` (erf(u), not erf(u / sqrt 2)), ``"gelu"`` (u Phi(u), not its
    tanh approximation), ``"sin"``, ``"cos"``, and ``"exp"``: the normalised exponential
    exp(u) / sqrt(E exp(2u)) = exp(u - q) of Gauss-net, with E[s(u) s(v)] = exp(-D / 2).  Its
    normalisation belongs to the law of u, not to the weights: it takes no part in derivatives.  So
    it means the same in every layer, and deep networks of it have the kernel of deep networks of
    sqrt(2) sin(u + pi / 4).

    Attributes:
        activation: one of those names.
        depth: L, the number of hidden layers, at least 1.
        weight_std: sigma_w > 0.
        bias_std: sigma_b >= 0.
        statistic: ``"ntk"`` or ``"nngp"``.

    Raises:
        ValueError: an unknown activation or statistic, depth below 1, sigma_w not above zero,
            sigma_b negative.

    Source: MF 2.9, MF 2.11, MF 2.12, MF 2.21, MF 2.22, MF section 3.2; Gauss-net: Halverson, Maiti,
    Stoner 2020.
    """

    activation: str = dataclasses.field(default="relu", metadata={"static": True})
    depth: int = dataclasses.field(default=1, metadata={"static": True})
    weight_std: Scalar = 1.0
    bias_std: Scalar = 0.0
    statistic: str = dataclasses.field(default="ntk", metadata={"static": True})

    reads_vectors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: expected one of {tuple(ACTIVATIONS)}, got {self.activation!r}; "
                "metric_ntk takes finite networks of any other"
            )
        _checks.positive_integer("depth", self.depth)
        check_statistic(self.statistic)
        if isinstance(self.weight_std, int | float):
            _checks.positive_number("weight_std", self.weight_std)
        if isinstance(self.bias_std, int | float) and not 0 <= self.bias_std < float("inf"):
            raise ValueError(
                f"bias_std: expected a finite number of at least 0, got {self.bias_std}"
            )

    def matrix(
        self,
        z1: Complex[Array, "b1 k"] | Float[Array, "b1 k"],
        z2: Complex[Array, "b2 k"] | Float[Array, "b2 k"],
    ) -> Float[Array, "b1 b2"]:
        """The kernel for all pairs.

        Args:
            z1, z2: homogeneous coordinates in their chart, x = (Re z, Im z) of 2 (n+2) components,
                or real vectors, which are x as they are.

        Raises:
            ValueError: shapes or dtypes that do not belong together.
        """
        return _matrix(self, *real_pair(z1, z2))


def real_pair(z1: Array, z2: Array) -> tuple[Array, Array]:
    """Both sets as real vectors: (Re z, Im z) of complex coordinates, real ones as they are.

    Raises:
        ValueError: not two matrices with rows of one length, one of them real and one complex, or
            integers.
    """
    z1, z2 = jnp.asarray(z1), jnp.asarray(z2)
    if z1.ndim != 2 or z2.ndim != 2 or z1.shape[1] != z2.shape[1] or z1.shape[1] == 0:
        raise ValueError(
            f"z1, z2: expected shapes (N1, k) and (N2, k), got {z1.shape} and {z2.shape}; "
            "one point is z[None]"
        )
    if z1.dtype != z2.dtype or not jnp.issubdtype(z1.dtype, jnp.inexact):
        raise ValueError(
            "z1, z2: expected two sets of complex homogeneous coordinates or two of real vectors, "
            f"of one dtype, got {z1.dtype} and {z2.dtype}; convert with astype"
        )
    if not jnp.issubdtype(z1.dtype, jnp.complexfloating):
        return z1, z2
    return real_coordinates(z1), real_coordinates(z2)


def check_statistic(statistic: str) -> None:
    """Raise ValueError unless it is the name of one of the two kernels."""
    if statistic not in STATISTICS:
        raise ValueError(f"statistic: expected one of {STATISTICS}, got {statistic!r}")


class _Pair(NamedTuple):
    """A Gaussian pair for all points: q (N1, 1), r (1, N2), D and S (N1, N2)."""

    q: Array
    r: Array
    distance2: Array
    sum2: Array

    @property
    def covariance(self) -> Array:
        """K."""
        return (self.q + self.r - self.distance2) / 2


class _Image(NamedTuple):
    """What an activation makes of a pair: second moments as in _Pair, and E[s'(u) s'(v)]."""

    q: Array
    r: Array
    distance2: Array
    sum2: Array
    slope: Array


@jax.jit
def _matrix(network: InfiniteNetwork, x: Array, y: Array) -> Array:
    weight = jnp.asarray(network.weight_std, x.dtype) ** 2
    bias = jnp.asarray(network.bias_std, x.dtype) ** 2
    share = weight / x.shape[1]
    q = share * jnp.sum(x**2, axis=1)[:, None] + bias
    r = share * jnp.sum(y**2, axis=1)[None, :] + bias
    distance2 = share * squared_distances(x, y)
    if network.activation in ("relu", "erf", "gelu"):
        sum2 = share * squared_distances(x, -y) + 4 * bias
    else:  # these see S in exp(-S/2) only, where rounding does no harm
        sum2 = 2 * (q + r) - distance2
    pair = _Pair(q, r, distance2, sum2)
    theta = pair.covariance
    for _ in range(network.depth):
        image = ACTIVATIONS[network.activation](pair)
        pair = _Pair(
            weight * image.q + bias,
            weight * image.r + bias,
            weight * image.distance2,
            weight * image.sum2 + 4 * bias,
        )
        theta = pair.covariance + weight * image.slope * theta
    return theta if network.statistic == "ntk" else pair.covariance


def squared_distances(x: Array, y: Array) -> Array:
    """|x_a - y_b|^2 from differences, and never (N1, N2, k) numbers."""

    def add(total: Array, columns: tuple[Array, Array]) -> tuple[Array, None]:
        for a, b in zip(*columns, strict=True):
            total = total + (a[:, None] - b[None, :]) ** 2
        return total, None

    zero = jnp.zeros((len(x), len(y)), x.dtype)
    if x.shape[1] <= _BLOCK:
        return add(zero, (x.T, y.T))[0]
    missing = -x.shape[1] % _BLOCK
    columns = [jnp.pad(p.T, ((0, missing), (0, 0))).reshape(-1, _BLOCK, len(p)) for p in (x, y)]
    return jax.lax.scan(add, zero, (columns[0], columns[1]))[0]


def _relu(pair: _Pair) -> _Image:
    """E[s s] = sqrt(q r) (sin t + (pi - t) cos t) / 2 pi, E[s' s'] = (pi - t) / 2 pi, K = cos t."""
    p, o = safe_sqrt(pair.q), safe_sqrt(pair.r)
    scale, uneven = p * o, (p - o) ** 2
    half = 0.5 / jnp.where(scale > 0, scale, 1)
    # 1 - cos t and 1 + cos t, each without cancellation where it is small
    versine = jnp.clip((pair.distance2 - uneven) * half, 0, 2)
    coversine = jnp.clip((pair.sum2 - uneven) * half, 0, 2)
    # the origin has no angle: any will do but one of 0 / 0
    near, far = safe_sqrt(versine), jnp.where(scale > 0, safe_sqrt(coversine), 1)
    angle = 2 * jnp.arctan2(near, far)
    # 1 - (sin t + (pi - t) cos t) / pi
    deficit = versine - (near * far - angle * (coversine - versine) / 2) / jnp.pi
    q, r = pair.q / 2, pair.r / 2
    distance2 = uneven / 2 + scale * deficit
    return _Image(q, r, distance2, 2 * (q + r) - distance2, (jnp.pi - angle) / (2 * jnp.pi))


def _sin(pair: _Pair) -> _Image:
    """E[s s] = (e^(-D/2) - e^(-S/2)) / 2 and E[s' s'] the sum."""
    near, far, uneven = _sinusoid(pair)
    q, r = (-jnp.expm1(-2 * x) / 2 for x in (pair.q, pair.r))
    distance2 = near * (1 + far) - uneven
    return _Image(q, r, distance2, 2 * (q + r) - distance2, (1 - near + far) / 2)


def _cos(pair: _Pair) -> _Image:
    """E[s s] = (e^(-D/2) + e^(-S/2)) / 2 and E[s' s'] the difference."""
    near, far, uneven = _sinusoid(pair)
    q, r = ((1 + jnp.exp(-2 * x)) / 2 for x in (pair.q, pair.r))
    distance2 = near * (1 - far) + uneven
    return _Image(q, r, distance2, 2 * (q + r) - distance2, (1 - near - far) / 2)


def _sinusoid(pair: _Pair) -> tuple[Array, Array, Array]:
    """1 - e^(-D/2), e^(-S/2), and (e^(-q) - e^(-r))^2 / 2, by which cos at D = 0 is uneven."""
    near, far = -jnp.expm1(-pair.distance2 / 2), jnp.exp(-pair.sum2 / 2)
    return near, far, (jnp.expm1(-pair.q) - jnp.expm1(-pair.r)) ** 2 / 2


def _exp(pair: _Pair) -> _Image:
    """E[s s] = E[s' s'] = e^(-D/2)."""
    q, r = jnp.ones_like(pair.q), jnp.ones_like(pair.r)
    near = -jnp.expm1(-pair.distance2 / 2)
    return _Image(q, r, 2 * near, 4 - 2 * near, 1 - near)


def _erf(pair: _Pair) -> _Image:
    """c = (1+2q)(1+2r): E[s s] = 2/pi arcsin(2K / sqrt c) and E[s' s'] = 4/pi / sqrt(c - 4K^2)."""
    arcs = _arcs(_Pair(*(2 * x for x in pair)))
    q, r = 2 / jnp.pi * arcs.own_q, 2 / jnp.pi * arcs.own_r
    # erf is odd: D and S change places with the sign of K
    small = 4 / jnp.pi * arcs.lack
    large = 2 * (q + r) - small
    distance2 = jnp.where(arcs.positive, small, large)
    sum2 = jnp.where(arcs.positive, large, small)
    return _Image(q, r, distance2, sum2, 4 / (jnp.pi * arcs.root))


def _gelu(pair: _Pair) -> _Image:
    """u Phi(u) is u / 2 and an even function e(u), whose moments add up.

    With h = 1/(1+q) + 1/(1+r), c = (1+q)(1+r) - K^2 and t = arctan(K / sqrt c), by Stein's lemma

        2 pi E[e(u) e(v)] = K t + sqrt c (1 - h) + 1 / sqrt c,
        E[s'(u) s'(v)] = 1/4 + (t + K (h + 1 / c) / sqrt c) / 2 pi.

    E[(e(u) - e(v))^2] is the second difference of the first line between K = q, r and |K|, which is
    taken for each of its three terms apart: all parts have a small factor in front.
    """
    q, r = pair.q, pair.r
    arcs = _arcs(pair)
    a, b, root = arcs.end_q, arcs.end_r, arcs.root
    inverse_q, inverse_r = 1 / (1 + q), 1 / (1 + r)
    h = inverse_q + inverse_r
    step, ends, product = a - b, a + b, a * b
    # a + b - 2 root, and 1 / a + 1 / b - 2 / root
    bend = -arcs.spread / (ends + 2 * root)
    inverse_bend = arcs.spread * ends**2 / 4 + step**2 * (2 * product + step**2 / 4)
    inverse_bend = inverse_bend / ((ends * root + 2 * product) * product * root)
    even = (
        arcs.nearer * (arcs.own_q + arcs.own_r) / 2
        + 2 * arcs.size * arcs.lack
        + (q - r) * (arcs.own_q - arcs.own_r) / 2
        + (1 - h) * bend
        + (q - r) * step * (inverse_q * inverse_r)
        + inverse_bend
    ) / (2 * jnp.pi)

    t = (arcs.own_q + arcs.own_r) / 2 - arcs.lack
    sign = jnp.where(arcs.positive, 1, -1).astype(t.dtype)
    slope = 0.25 + sign * (t + arcs.size * (h + 1 / root**2) / root) / (2 * jnp.pi)

    def square(x: Array, arc: Array) -> Array:
        """E[e^2]."""
        return (x * arc + 2 * x**2 / ((1 + x) * jnp.sqrt(1 + 2 * x))) / (2 * jnp.pi)

    even_q, even_r = square(q, arcs.own_q), square(r, arcs.own_r)
    distance2 = pair.distance2 / 4 + even
    sum2 = pair.sum2 / 4 + 2 * (even_q + even_r) - even
    return _Image(q / 4 + even_q, r / 4 + even_r, distance2, sum2, slope)


class _Arcs(NamedTuple):
    """Angles t(q, r, K) = arcsin(K / sqrt((1+q)(1+r))) and what they are made of.

    Attributes:
        positive: K >= 0.
        nearer: D there, else S.
        size: |K|.
        root: sqrt((1+q)(1+r) - K^2).
        end_q, end_r: the same for K = q = r, sqrt(1 + 2q) and sqrt(1 + 2r).
        own_q, own_r: t(q, q, q) and t(r, r, r).
        lack: half of t(q, q, q) + t(r, r, r) - 2 t(q, r, |K|), small like D.
        spread: (end_q - end_r)^2 + 4 (q r - K^2), small like D.
    """

    positive: Array
    nearer: Array
    size: Array
    root: Array
    end_q: Array
    end_r: Array
    own_q: Array
    own_r: Array
    lack: Array
    spread: Array


def _arcs(pair: _Pair) -> _Arcs:
    """The tangent of ``lack`` is a quotient with the spread in front.

    (t(q, q, q) + t(r, r, r)) / 2 = arctan((a b - 1) / (a + b)) for a^2 = 1 + 2q, b^2 = 1 + 2r, and
    t(q, r, K) = arctan(K / root); the numerator of the tangent of their difference,
    (a b - 1) root - |K| (a + b), times the same with a plus is (1+q)(1+r) times the spread.
    """
    q, r = pair.q, pair.r
    a, b = jnp.sqrt(1 + 2 * q), jnp.sqrt(1 + 2 * r)
    p, o = safe_sqrt(q), safe_sqrt(r)
    positive = pair.sum2 >= pair.distance2
    nearer = jnp.where(positive, pair.distance2, pair.sum2)
    gap = cut_below_zero((nearer - (p - o) ** 2) / 2)  # sqrt(q r) - |K|
    size = p * o - gap
    area = gap * (p * o + size)  # q r - K^2
    root = jnp.sqrt(1 + q + r + area)
    spread = (a - b) ** 2 + 4 * area
    above_q, above_r, ends = 2 * q / (1 + a), 2 * r / (1 + b), a + b
    excess = above_q * above_r + above_q + above_r  # a b - 1
    plus = excess * root + size * ends
    below = plus * (ends * root + excess * size)
    lack = jnp.arctan2((1 + q) * (1 + r) * spread, jnp.where(below > 0, below, 1))
    own_q, own_r = jnp.arctan2(q, a), jnp.arctan2(r, b)
    return _Arcs(positive, nearer, size, root, a, b, own_q, own_r, lack, spread)


ACTIVATIONS: dict[str, Callable[[_Pair], _Image]] = {
    "relu": _relu,
    "erf": _erf,
    "gelu": _gelu,
    "sin": _sin,
    "cos": _cos,
    "exp": _exp,
}
