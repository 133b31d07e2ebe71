"""Laws that hold for every input: few examples in the common suite, thousands in the heavy one."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricflow
from metricflow import discretize, geometry, optim
from tests.tolerances import tolerance

FEW, MANY = 5, 2000
COMMAND = (
    "METRICFLOW_PROPERTIES_JSON=docs/results/properties.json "
    "python -m pytest -m heavy tests/robustness/test_properties.py"
)
SEEN: Counter = Counter()
seeds = st.integers(0, 2**31)

quintic = geometry.fermat(3)
CHARTS = [(s, e) for s in range(5) for e in range(5) if s != e]
RULES = {
    "ste": optim.ste_gradient,
    "dorefa": optim.dorefa_gradient,
    "lne": lambda: optim.lne_gradient(q=0.4),
    "irnet": lambda: optim.irnet_gradient(1.5),
    "mirror": lambda: optim.mirror_descent_gradient(1.5),
}


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def close(found: object, expected: object, name: str = "algebra") -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    scale = max(np.max(np.abs(expected), initial=0), 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(name) * scale)


def point(seed: int) -> jax.Array:
    """On the quintic, by roots of the last coordinate; any scaling."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=5) + 1j * rng.normal(size=5)
    z[4] = (-np.sum(z[:4] ** 5) + 0j) ** 0.2 * np.exp(2j * np.pi * rng.integers(5) / 5)
    return jnp.asarray(z)


def transitions_compose(seed: int) -> None:
    """T(b, c) T(a, b) = T(a, c), and T(a, a) = 1."""
    rng = np.random.default_rng(seed)
    a, b, c = (CHARTS[k] for k in rng.integers(len(CHARTS), size=3))
    z = point(seed)
    first = geometry.transition(quintic, z, a, b)
    second = geometry.transition(quintic, z, b, c)
    whole = np.asarray(geometry.transition(quintic, z, a, c))
    size = np.linalg.norm(second) * np.linalg.norm(first)
    error = np.abs(np.asarray(second @ first) - whole).max()
    assert error <= tolerance("algebra") * size
    close(geometry.transition(quintic, z, a, a), np.eye(3))


def distances_see_no_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = normal(seed, 2, 4) + 1j * normal(seed + 1, 2, 4)
    factor = np.exp(rng.uniform(-3, 3) + 1j * rng.uniform(0, 6))
    d = geometry.fubini_study_distance(x, y)
    close(geometry.fubini_study_distance(factor * x, y), d)
    assert float(d) == pytest.approx(float(geometry.fubini_study_distance(y, x)), abs=1e-14)
    assert 0 <= float(d) <= np.pi / 2 + 1e-15
    assert float(geometry.fubini_study_distance(x, factor * x)) < 1e-7


def quantisers_are_projections(seed: int) -> None:
    """Odd, monotone, bounded, of at most 2^bits levels, and the identity on what they give."""
    rng = np.random.default_rng(seed)
    bits = int(rng.integers(1, 7))
    w = jnp.asarray(rng.normal(size=int(rng.integers(2, 40))) * np.exp(rng.uniform(-5, 5)))
    found = discretize.quantize(w, bits)
    assert len(np.unique(found)) <= 2**bits
    assert float(jnp.max(jnp.abs(found))) <= 1
    order = jnp.argsort(w)
    assert np.all(np.diff(np.asarray(found[order])) >= 0)
    close(discretize.quantize(-w, bits), -found, "rounding")
    if float(jnp.max(jnp.abs(found))) == 1:
        close(discretize.quantize(found, bits), found, "rounding")
    three = discretize.ternary(w)
    assert set(np.unique(three)) <= {-1.0, 0.0, 1.0}
    close(discretize.ternary(-w), -three, "rounding")


def packing_keeps_quantised_weights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 5, size=int(rng.integers(1, 4))))
    bits = int(rng.choice([1, 2, 3, 4, 5, 6, 7, 8]))
    w = jnp.asarray(rng.normal(size=shape), jnp.float32)
    packed = discretize.pack(w, bits)
    assert packed.codes.size == -(-w.size * bits // 8)
    expected = discretize.quantize(w, bits, scaled=True)
    np.testing.assert_array_equal(discretize.unpack(packed), expected)


def rules_are_linear(seed: int) -> None:
    """In the gradient, at given weights; nothing comes of nothing."""
    rng = np.random.default_rng(seed)
    name = sorted(RULES)[int(rng.integers(len(RULES)))]
    rule: optax.GradientTransformation = RULES[name]()
    w, g, h = normal(seed, 3, 6)
    a, b = rng.normal(size=2)

    def updated(gradient: jax.Array) -> jax.Array:
        return rule.update({"w": gradient}, rule.init({"w": w}), {"w": w})[0]["w"]

    close(updated(a * g + b * h), a * updated(g) + b * updated(h))
    assert not np.any(updated(jnp.zeros(6)))


def states_survive_flattening(seed: int) -> None:
    """A state that went through its leaves gives the same second update."""
    rng = np.random.default_rng(seed)
    name = sorted(RULES)[int(rng.integers(len(RULES)))]
    rule: optax.GradientTransformation = RULES[name]()
    w, g, h = normal(seed, 3, 6)
    _, state = rule.update({"w": g}, rule.init({"w": w}), {"w": w})
    leaves, structure = jax.tree.flatten(state)
    again = jax.tree.unflatten(structure, [jnp.asarray(np.asarray(x)) for x in leaves])
    first = rule.update({"w": h}, state, {"w": w})[0]["w"]
    np.testing.assert_array_equal(rule.update({"w": h}, again, {"w": w})[0]["w"], first)


def hermitian_numbers_return(seed: int) -> None:
    n = int(np.random.default_rng(seed).integers(1, 6))
    x = normal(seed, 2, n * n)
    close(geometry.hermitian_pack(geometry.hermitian_unpack(x)), x, "rounding")


LAWS: tuple[Callable[[int], None], ...] = (
    transitions_compose,
    distances_see_no_scale,
    quantisers_are_projections,
    packing_keeps_quantised_weights,
    rules_are_linear,
    states_survive_flattening,
    hermitian_numbers_return,
)
every_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)


def examined(law: Callable[[int], None], count: int) -> None:
    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(seeds)
    def check(seed: int) -> None:
        law(seed)
        SEEN[law.__name__] += 1

    check()


@every_law
def test_laws(law):
    examined(law, FEW)


@pytest.fixture(scope="module")
def published() -> Iterator[None]:
    """Numbers of examples that passed, where the environment asks for them."""
    yield
    path = os.environ.get("METRICFLOW_PROPERTIES_JSON")
    if path:
        content = {
            "command": COMMAND,
            "version": metricflow.__version__,
            "jax": jax.__version__,
            "examples": dict(sorted(SEEN.items())),
            "total": sum(SEEN.values()),
        }
        Path(path).write_text(json.dumps(content, indent=1) + "\n")


@pytest.mark.heavy
@every_law
def test_laws_with_many_examples(law, published):
    examined(law, MANY)
