import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.flows.time_steps import rosenbrock_step, runge_kutta_step
from tests.tolerances import tolerance

TIME = 1.0


def pendulum(state):
    """A tree, not linear, with a known invariant: q'' = -sin q."""
    return {"q": state["p"], "p": -jnp.sin(state["q"])}


START = {"q": jnp.array(1.2), "p": jnp.array(0.3)}


def linear_solve(matrix, field, c):
    """(1 - c A) u = field on the two entries of the tree."""
    both = jnp.stack([field["q"], field["p"]])
    q, p = jnp.linalg.solve(jnp.eye(2) - c * matrix, both)
    return {"q": q, "p": p}


EXACT = jnp.array([[0.0, 1.0], [-np.cos(1.2), 0.0]])
WRONG = {
    "exact": EXACT,
    "zero": 0 * EXACT,
    "turned round": -EXACT,
    "unrelated": jnp.array([[-3.0, 0.5], [1.0, -2.0]]),
}


@functools.partial(jax.jit, static_argnames=("step", "count"))
def solve(step, count):
    def one(state, _):
        return step(state, TIME / count), None

    last = jax.lax.scan(one, START, length=count)[0]
    return jnp.stack([last["q"], last["p"]])


def orders(step, counts):
    """log2 of the ratios of errors when the number of steps doubles."""
    exact = solve(functools.partial(runge_kutta_step, pendulum), 2000)
    errors = [float(jnp.linalg.norm(solve(step, count) - exact)) for count in counts]
    return np.log2(np.array(errors[:-1]) / errors[1:])


def test_runge_kutta_is_of_order_four():
    found = orders(functools.partial(runge_kutta_step, pendulum), (8, 16, 32))
    np.testing.assert_allclose(found, 4, atol=0.2)


@pytest.mark.parametrize("name", WRONG)
def test_rosenbrock_is_of_order_two_whatever_the_jacobian(name):
    solver = functools.partial(linear_solve, WRONG[name])
    step = functools.partial(rosenbrock_step, pendulum, solver)
    # the more wrong the Jacobian, the later the order shows
    np.testing.assert_allclose(orders(step, (128, 256, 512)), 2, atol=0.15)


@pytest.mark.parametrize("z", [-1e-3, -0.5, -2.7, -10.0, -1e3, -1e8])
def test_stability_functions(z):
    """RK4: the series to order 4.  Rosenbrock with A = dv/du: its rational function."""
    found = runge_kutta_step(lambda u: z * u, jnp.array(1.0), 1.0)
    expected = 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    assert float(found) == pytest.approx(expected, rel=tolerance("algebra"))
    gamma = 1 + 0.5**0.5
    found = rosenbrock_step(lambda u: z * u, lambda f, c: f / (1 - c * z), jnp.array(1.0), 1.0)
    expected = (1 + (1 - 2 * gamma) * z + (gamma**2 - 2 * gamma + 0.5) * z**2) / (
        1 - gamma * z
    ) ** 2
    assert float(found) == pytest.approx(expected, rel=tolerance("algebra"), abs=1e-14)
    assert abs(float(found)) < 1


def test_rosenbrock_is_l_stable():
    """Stable in the whole left half plane, and infinitely stiff modes are gone after one step."""
    radius = np.logspace(-3, 9, 25)
    z = (radius[:, None] * np.exp(1j * np.linspace(np.pi / 2, np.pi, 19))).reshape(-1)

    def step(z):
        return rosenbrock_step(lambda u: z * u, lambda f, c: f / (1 - c * z), 1 + 0j, 1.0)

    assert np.max(np.abs(step(z))) < 1 + tolerance("algebra")
    assert np.max(np.abs(step(z[np.abs(z) > 1e8]))) < 1e-7
    # the explicit method is not: its interval ends at 2.785
    limit = [float(abs(runge_kutta_step(lambda u, z=z: z * u, 1.0, 1.0))) for z in (-2.78, -2.79)]
    assert limit[0] < 1 < limit[1]


def test_half_of_the_stiffness_is_enough():
    """With A = c dv/du for c >= 1/2 or so the step stays stable for any dt."""
    for share in (0.5, 1.0, 2.0, 10.0):
        z = -np.logspace(-2, 8, 40)
        found = rosenbrock_step(
            lambda u: z * u,  # noqa: B023
            lambda f, c: f / (1 - c * share * z),  # noqa: B023
            np.ones(40),
            1.0,
        )
        assert np.max(np.abs(found)) < 1


def test_dtype_is_kept(dtype):
    state = {"a": jnp.ones(2, dtype), "b": (jnp.zeros((), dtype),)}

    def velocity(tree):
        return jax.tree.map(lambda x: -x, tree)

    dt = jnp.asarray(0.1, dtype)
    for new in (
        runge_kutta_step(velocity, state, dt),
        rosenbrock_step(velocity, lambda f, c: f, state, dt),
    ):
        assert jax.tree.structure(new) == jax.tree.structure(state)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(new))
