import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import geometry
from metricflow._pytree import register_dataclass
from metricflow.geometry import curvature, local_coordinates
from metricflow.geometry import kaehler_curvature as kaehler
from tests.tolerances import tolerance


def projective(x, sign=1):
    """g = s d dbar log(1 + s |x|^2): P^n in affine coordinates for s = 1, the ball for s = -1."""
    size = 1 + sign * jnp.sum(x.real**2 + x.imag**2)
    flat = jnp.eye(len(x), dtype=x.dtype)
    return flat / size - sign * jnp.outer(x.conj(), x) / size**2


def embedding(x):
    """A holomorphic map to C^(n+3), without symmetries."""
    n, rng = len(x), np.random.default_rng(2)
    linear, square, cube = (rng.normal(size=(2, n + 3, n**k)).T @ [1, 1j] for k in (1, 2, 3))
    power = jnp.outer(x, x).ravel()
    return x @ linear + 0.3 * power @ square + 0.1 * jnp.outer(power, x).ravel() @ cube


def induced(x):
    """g_(a bbar) = d_a f_m conj(d_b f_m), the metric of the image of :func:`embedding`."""
    slope = jax.jacfwd(embedding, holomorphic=True)(x).T
    return slope @ slope.conj().T


def unclosed(x):
    """Hermitian and positive, but not Kaehler."""
    return induced(x) * (1 + 0.5 * jnp.sin(x[0].real + x[-1].imag))


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Perturbed:
    """g_FS + eps d dbar u^2 with u = |z_0|^2 / |z|^2, another Kaehler metric of the same class."""

    manifold: geometry.Hypersurface
    eps: Any = 0.3
    scale: Any = 1.0

    def __call__(self, z, chart):
        z = geometry.chart_coordinates(z, chart)
        jacobian = geometry.pullback(self.manifold, z, chart)
        size = jnp.sum(z.real**2 + z.imag**2, axis=-1)[..., None]
        unit = jnp.eye(z.shape[-1], dtype=z.dtype)[0]
        u = jnp.abs(z[..., :1]) ** 2 / size
        first = jnp.einsum("...ai,...i->...a", jacobian, z.conj() / size)
        pole = jacobian[..., 0] * z[..., :1].conj() / size
        slope = pole - u * first
        flat = jnp.einsum("...ai,...bi->...ab", jacobian, jacobian.conj()) / size[..., None]

        def outer(v, w):
            return v[..., :, None] * w[..., None, :].conj()

        fubini_study = flat - outer(first, first)
        at_pole = outer(jacobian @ unit, jacobian @ unit) / size[..., None]
        mixed = at_pole - outer(pole, first) - outer(first, pole)
        mixed = mixed - u[..., None] * (fubini_study - outer(first, first))
        change = 2 * (u[..., None] * mixed + outer(slope, slope))
        return self.scale * (fubini_study + self.eps * change)


def point(n, dtype="float64"):
    kind = "complex64" if dtype == "float32" else "complex128"
    return jnp.asarray([0.3 - 0.2j, 0.1 + 0.5j, -0.4 + 0.1j][:n], kind)


def at(quantity, metric, x):
    """Compiled as one program, which is faster here than operation by operation."""
    return jax.jit(functools.partial(quantity, metric))(x)


def close(found, expected, tol=None, scale=1.0):
    np.testing.assert_allclose(found, expected, rtol=0, atol=(tol or tolerance("algebra")) * scale)


@pytest.mark.equation("MF B.3")
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_spaces_of_constant_holomorphic_curvature(n, sign, dtype):
    x, tol = point(n, dtype), tolerance("algebra", dtype)
    metric = functools.partial(projective, sign=sign)
    g, flat = metric(x), np.eye(n)
    size = 1 + sign * float(jnp.sum(jnp.abs(x) ** 2))
    scale = max(1, float(jnp.max(jnp.abs(g)))) ** 2
    gamma = at(kaehler.kaehler_christoffel, metric, x)
    assert gamma.dtype == x.dtype
    bar = -sign * np.asarray(x).conj() / size
    close(gamma, np.einsum("ab,c->abc", flat, bar) + np.einsum("ac,b->abc", flat, bar), tol, scale)
    r = at(kaehler.kaehler_riemann, metric, x)
    assert r.dtype == x.dtype
    expected = jnp.einsum("ab,cd->abcd", g, g) + jnp.einsum("ad,cb->abcd", g, g)
    close(r, sign * expected, tol, scale)
    close(at(kaehler.kaehler_ricci, metric, x), sign * (n + 1) * g, tol, scale)
    scalar = at(kaehler.kaehler_scalar, metric, x)
    assert scalar.dtype == dtype
    assert float(scalar) == pytest.approx(sign * n * (n + 1), rel=tol)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_eigenfunctions_of_projective_space(n, dtype):
    """z_i zbar_j / |z|^2 without its trace: g^(a bbar) d_a dbar_b has the eigenvalue -(n + 1)."""
    x, tol = point(n, dtype), tolerance("algebra", dtype)

    def function(y):
        z = jnp.append(jnp.ones(1, y.dtype), y)
        flat = jnp.eye(n + 1, dtype=y.dtype) / (n + 1)
        return jnp.outer(z, z.conj()) / jnp.sum(jnp.abs(z) ** 2) - flat

    def laplacian(f):
        return jax.jit(lambda y: kaehler.kaehler_laplacian(projective, f, y))(x)

    found = laplacian(function)
    assert found.dtype == x.dtype
    close(found, -(n + 1) * function(x), tol)
    real = laplacian(lambda y: function(y)[0, 0].real)
    assert real.dtype == dtype
    close(real, -(n + 1) * function(x)[0, 0].real, tol)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_induced_metrics_obey_the_equation_of_gauss(n):
    """R_(a bbar c dbar) = -(d_c d_a f, d_d d_b f) across the image: flat space has none itself."""
    x = point(n)
    slope = jax.jacfwd(embedding, holomorphic=True)
    frame, _ = jnp.linalg.qr(slope(x))
    bend = jax.jit(jax.jacfwd(slope, holomorphic=True))(x)
    across = bend - jnp.einsum("mk,lk,lac->mac", frame, frame.conj(), bend)
    expected = -jnp.einsum("mac,mbd->abcd", across, across.conj())
    found = at(kaehler.kaehler_riemann, induced, x)
    close(found, expected, scale=float(jnp.max(jnp.abs(found))))


def test_symmetries_of_a_kaehler_metric():
    x = point(3)
    gamma = at(kaehler.kaehler_christoffel, induced, x)
    close(gamma, gamma.swapaxes(1, 2))
    r = at(kaehler.kaehler_riemann, induced, x)
    size = float(jnp.max(jnp.abs(r)))
    close(r, r.swapaxes(0, 2), scale=size)
    close(r, r.swapaxes(1, 3), scale=size)
    close(r, jnp.transpose(r, (1, 0, 3, 2)).conj(), scale=size)
    # the torsion of a metric that is not Kaehler breaks the first two
    gamma = at(kaehler.kaehler_christoffel, unclosed, x)
    assert float(jnp.max(jnp.abs(gamma - gamma.swapaxes(1, 2)))) > 0.01


def test_second_bianchi_identity():
    """D_e R_(a bbar c dbar) is symmetric in e, a and c."""

    def derivatives(metric, y):
        riemann = functools.partial(kaehler.kaehler_riemann, metric)
        along = jax.vmap(lambda v: geometry.holomorphic_derivative(riemann, y, v), out_axes=-1)
        return along(jnp.eye(2) + 0j), riemann(y), kaehler.kaehler_christoffel(metric, y)

    slope, r, gamma = at(derivatives, induced, point(2))
    drift = jnp.einsum("fea,fbcd->abcde", gamma, r) + jnp.einsum("fec,abfd->abcde", gamma, r)
    covariant = slope - drift
    size = float(jnp.max(jnp.abs(covariant)))
    close(covariant, covariant.swapaxes(0, 4), scale=size)
    close(covariant, covariant.swapaxes(2, 4), scale=size)


@pytest.mark.equation("MF B.3")
@pytest.mark.parametrize("metric", [induced, unclosed])
def test_ricci_is_the_contraction_of_riemann(metric):
    """-d dbar log det g is the trace of the Chern curvature, for Kaehler metrics and others."""
    x = point(3)
    inverse = np.linalg.inv(metric(x))  # carries (bbar, a)
    r = np.asarray(at(kaehler.kaehler_riemann, metric, x))
    expected = np.einsum("ba,abcd->cd", inverse, r)
    found = at(kaehler.kaehler_ricci, metric, x)
    close(found, expected)
    close(found, found.conj().T)
    scalar = at(kaehler.kaehler_scalar, metric, x)
    close(scalar, np.einsum("ba,ab->", inverse, expected).real)
    if metric is induced:
        close(np.einsum("dc,abcd->ab", inverse, r), expected)


def real_point(x):
    return jnp.concatenate([x.real, x.imag])


def function(x):
    return jnp.sin(x[0].real) * x[-1].imag + jnp.abs(x[0]) ** 4


def real_route(metric, x):
    """Riemann, connection, Ricci, scalar and Laplacian of ds^2 = 2 Re(g dx dxbar)."""
    n, y, real = len(x), real_point(x), kaehler.real_metric(metric)
    return (
        curvature.riemann(real, y),
        curvature.christoffel(real, y),
        curvature.ricci(real, y),
        curvature.scalar_curvature(real, y),
        curvature.laplacian(real, lambda v: function(v[:n] + 1j * v[n:]), y),
    )


def kaehler_route(metric, x):
    return (
        kaehler.kaehler_riemann(metric, x),
        kaehler.kaehler_christoffel(metric, x),
        kaehler.real_metric(lambda w: kaehler.kaehler_ricci(metric, w))(real_point(x)),
        2 * kaehler.kaehler_scalar(metric, x),
        2 * kaehler.kaehler_laplacian(metric, function, x),
    )


def compare_with_real_route(metric, x):
    n = len(x)
    riemann, gamma, *rest = map(np.asarray, at(real_route, metric, x))
    vectors = np.concatenate([np.eye(n), -1j * np.eye(n)]).T / 2  # d_a = (d_x - i d_y) / 2
    along = [vectors, vectors.conj()] * 2
    # positive curvature is R_ijij > 0 there, R_(a abar a abar) > 0 here
    found = [-np.einsum("ijkl,ai,bj,ck,dl->abcd", riemann, *along)]
    gamma = np.einsum("ijk,bj,ck->ibc", gamma, vectors, vectors)
    found += [gamma[:n] + 1j * gamma[n:], *rest]  # v^a = v_x + i v_y
    for one, other in zip(found, at(kaehler_route, metric, x), strict=True):
        close(one, other, scale=max(1, float(jnp.max(jnp.abs(other)))))


@pytest.mark.parametrize("n", [1, 2])
def test_both_routes_agree_for_a_random_metric(n):
    x = point(n)
    real = np.asarray(kaehler.real_metric(induced)(real_point(x)))
    step = np.random.default_rng(0).normal(size=2 * n)
    holomorphic = step[:n] + 1j * step[n:]
    length = 2 * np.einsum("ab,a,b->", induced(x), holomorphic, holomorphic.conj())
    assert step @ real @ step == pytest.approx(length.real, rel=tolerance("rounding"))
    compare_with_real_route(induced, x)


def test_both_routes_agree_for_fubini_study_on_the_quintic(quintic, quintic_points):
    metric = geometry.FubiniStudyMetric(quintic)
    z, chart = quintic_points.z[0], quintic_points.chart[0]
    compare_with_real_route(*local_coordinates.local_metric(metric, quintic, z, chart))


def test_many_points_compiled_and_one_by_one():
    x = point(2) + 0.1 * jnp.arange(3)[:, None]
    for quantity in (
        kaehler.kaehler_christoffel,
        kaehler.kaehler_riemann,
        kaehler.kaehler_ricci,
        kaehler.kaehler_scalar,
    ):
        one = jax.jit(functools.partial(quantity, induced))
        close(jax.jit(jax.vmap(one))(x), jnp.stack([one(y) for y in x]))
    # without compilation too
    close(kaehler.kaehler_ricci(induced, x[0]), at(kaehler.kaehler_ricci, induced, x[0]))


def test_curvature_can_be_differentiated():
    """The scalar of r projective(x) is n (n + 1) / r."""

    def scalar(r):
        return kaehler.kaehler_scalar(lambda x: r * projective(x), point(2))

    for derivative in (jax.grad(scalar), jax.jacfwd(scalar)):
        assert float(jax.jit(derivative)(1.7)) == pytest.approx(-6 / 1.7**2, rel=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_newton_steps_double_the_order_of_the_local_coordinates(quintic, quintic_points, steps):
    """The Taylor coefficients of z(x) are exact up to order 2^m - 1: P is of order 2^m off X."""
    z, chart = 2j * quintic_points.z[1], quintic_points.chart[1]
    function = local_coordinates.local_point(quintic, z, chart, steps=steps)
    x = local_coordinates.local_metric(lambda w, c: w, quintic, z, chart)[1]
    np.testing.assert_allclose(function(x), quintic_points.z[1], atol=tolerance("rounding"))
    off = [
        abs(complex(geometry.polynomial(quintic, function(x + size * jnp.array([1, 1j, -1])))))
        for size in (0.02, 0.01)
    ]
    assert np.log2(off[0] / off[1]) == pytest.approx(2**steps, abs=0.4)


def test_local_coordinates_have_the_pull_back_as_their_derivative(quintic, quintic_points):
    for i in range(6):
        z, chart = quintic_points.z[i], quintic_points.chart[i]
        _, x = local_coordinates.local_metric(lambda w, c: w, quintic, z, chart)
        function = local_coordinates.local_point(quintic, z, chart)
        found = jax.jacfwd(function, holomorphic=True)(x).T
        np.testing.assert_allclose(found, quintic_points.pullback[i], atol=tolerance("algebra"))


@pytest.mark.parametrize("dim", [2, 3])
def test_fubini_study_of_a_hypersurface_by_the_equation_of_gauss(dim, dtype):
    """R = g g + g g - h hbar with h_ac = P_ij J_a^i J_c^j / (|dP| |z|), the second form of X."""
    manifold = geometry.dwork(dim, 0.4)
    points = geometry.sample_points(jax.random.key(dim), manifold, 20, dtype=dtype)
    metric = geometry.FubiniStudyMetric(manifold)
    found = geometry.riemann_on_hypersurface(metric, points, chunk=7)
    assert found.dtype == points.z.dtype
    hessian = jax.vmap(jax.jacfwd(lambda z: geometry.gradient(manifold, z), holomorphic=True))
    second = jnp.einsum("xij,xai,xcj->xac", hessian(points.z), points.pullback, points.pullback)
    slope = jnp.linalg.norm(geometry.gradient(manifold, points.z), axis=1)
    h = second / (slope * jnp.linalg.norm(points.z, axis=1))[:, None, None]
    g = geometry.fubini_study_metric(points)
    expected = (
        jnp.einsum("xab,xcd->xabcd", g, g)
        + jnp.einsum("xad,xcb->xabcd", g, g)
        - jnp.einsum("xac,xbd->xabcd", h, h.conj())
    )
    size = jnp.max(jnp.abs(expected), axis=(1, 2, 3, 4), keepdims=True)
    close(found / size, expected / size, tolerance("algebra", dtype))


def test_bulk_curvature_is_that_in_local_coordinates():
    """One leaves the hypersurface along tangents, the other stays on it by Newton's method."""
    manifold = geometry.dwork(2, 0.4)
    points = geometry.sample_points(jax.random.key(3), manifold, 6)
    metric = Perturbed(manifold)
    found = geometry.riemann_on_hypersurface(metric, points, chunk=4)

    def one(z, chart):
        return kaehler.kaehler_riemann(*local_coordinates.local_metric(metric, manifold, z, chart))

    expected = jax.jit(jax.vmap(one))(points.z, points.chart)
    size = float(jnp.max(jnp.abs(expected)))
    close(found, expected, scale=size)
    close(found, found.swapaxes(1, 3), scale=size)


def test_the_flat_metric_of_the_fermat_cubic_has_no_curvature():
    """|Omega|^2 on the torus, in local coordinates and in bulk; the function is no pytree."""
    curve = geometry.fermat(1)
    points = geometry.sample_points(jax.random.key(2), curve, 30)

    def metric(z, chart):
        z = geometry.chart_coordinates(z, chart)
        return geometry.holomorphic_volume(curve, z, chart)[..., None, None]

    scale = float(jnp.max(points.omega2))
    close(geometry.riemann_on_hypersurface(metric, points), 0, scale=scale)
    local, x = local_coordinates.local_metric(metric, curve, points.z[0], points.chart[0])
    close(at(kaehler.kaehler_ricci, local, x), 0)
    assert float(jnp.abs(at(kaehler.kaehler_christoffel, local, x)[0, 0, 0])) > 0.01


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    "quantity",
    [
        kaehler.kaehler_christoffel,
        kaehler.kaehler_riemann,
        kaehler.kaehler_ricci,
        kaehler.kaehler_scalar,
        lambda metric, x: kaehler.kaehler_laplacian(metric, lambda y: y[0].real, x),
    ],
)
def test_wrong_input_is_named(quantity):
    with pytest.raises(ValueError, match=r"x: expected .* got complex128 of shape \(2, 3\).*vmap"):
        quantity(projective, jnp.ones((2, 3)) + 0j)
    with pytest.raises(ValueError, match=r"x: expected complex coordinates .* got float64"):
        quantity(projective, jnp.ones(3))
    with pytest.raises(ValueError, match=r"metric: expected .*\(3, 3\) .* got \(2, 2\)"):
        quantity(lambda x: jnp.eye(2) + 0j * x[0], jnp.ones(3) + 0j)


@pytest.mark.usefixtures("as_user")
def test_wrong_input_on_a_hypersurface_is_named(quintic, quintic_points):
    riemann, metric = geometry.riemann_on_hypersurface, geometry.FubiniStudyMetric(quintic)
    none = jax.tree.map(lambda x: x[:0], quintic_points)
    with pytest.raises(ValueError, match="points: expected at least one point, got none"):
        riemann(metric, none)
    with pytest.raises(ValueError, match="chunk: expected an integer of at least 1, got 0"):
        riemann(metric, quintic_points, chunk=0)
    with pytest.raises(ValueError, match=r"metric: expected .* \(10, 3, 3\) .* got \(10, 5\)"):
        riemann(lambda z, chart: z, quintic_points, chunk=10)
    chart = quintic_points.chart[0]
    with pytest.raises(ValueError, match=r"z: expected one point, shape \(5,\), got .*\(500, 5\)"):
        local_coordinates.local_point(quintic, quintic_points.z, chart)
    with pytest.raises(ValueError, match=r"z: expected .* got shape \(4,\)"):
        local_coordinates.local_metric(metric, quintic, quintic_points.z[0, :4], chart)
    with pytest.raises(ValueError, match="steps: expected an integer of at least 1, got 0"):
        local_coordinates.local_point(quintic, quintic_points.z[0], chart, steps=0)
