"""What every gradient rule has to do in the hands of optax and jax, whatever its formula."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metricflow.optim import (
    dorefa_gradient,
    exponential_slope,
    irnet_gradient,
    lne_gradient,
    metaquant_gradient,
    mirror_descent_gradient,
    proximal_quantization,
    rf_dnn_gradient,
    ste_gradient,
)
from tests.tolerances import tolerance


class Case(NamedTuple):
    """A rule, and the number that inject_hyperparams varies, with what it must leave alone."""

    label: str  # in messages
    factory: Callable
    options: dict
    scheduled: str = ""
    static: tuple = ()

    def build(self, **options):
        return self.factory(**{**self.options, **options})


def meta(kind):
    options = {"key": jax.random.key(3), "kind": kind, "hidden": 2, "learning_rate": 0.01}
    scheduled = "learning_rate" if kind == "fc" else ""  # the kinds share their Adam
    static = ("key", "kind", "hidden")
    return Case("metaquant_gradient", metaquant_gradient, options, scheduled, static)


def lne(scheduled="q", **options):
    return Case("scale_by_lne", lne_gradient, options, scheduled)


def rf_dnn(scheduled, **options):
    return Case("rf_dnn_gradient", rf_dnn_gradient, {"step_size": 0.1, **options}, scheduled)


SECOND_STEP = {
    "alpha": 5.0,
    "alpha_scale": "absolute",
    "time_difference": "second_step",
    "inner_gradient": "differentiated",
    "inverse": "exact",
    "every": 2,
}
CASES = {
    "ste": Case("ste_gradient", ste_gradient, {}),
    "clipped_ste": Case("ste_gradient", ste_gradient, {"clip": 0.5}, "clip"),
    "dorefa": Case("dorefa_gradient", dorefa_gradient, {}),
    "irnet": Case("irnet_gradient", irnet_gradient, {"slope": exponential_slope(3)}, "slope"),
    "mirror_descent": Case(
        "mirror_descent_gradient", mirror_descent_gradient, {"beta": 2.0}, "beta"
    ),
    "metaquant_fc": meta("fc"),
    "metaquant_multi_fc": meta("multi_fc"),
    "metaquant_lstm": meta("lstm"),
    "lne_tau": lne("tau", tau=0.1),
    "lne_q": lne("q", q=0.4),
    "lne_weak": lne("max_q", q=0.9, max_q=0.3, inverse="weak"),
    "lne_hessian": lne("tau", tau=0.1, inverse="hessian"),
    "lne_strong": lne("", inverse="strong"),
    "rf_dnn": rf_dnn("alpha", alpha=0.2),
    "rf_dnn_second_step": rf_dnn("step_size", **SECOND_STEP),
    "proximal": Case(
        "proximal_quantization",
        proximal_quantization,
        {"optimizer": optax.sgd(0.1), "strength": 0.02},
        "strength",
        ("optimizer", "quantizer"),
    ),
}
every_rule = pytest.mark.parametrize("name", CASES)
# to compile the fit of a network for every leaf takes seconds, and optax sees no difference
every_fast_rule = pytest.mark.parametrize("name", [name for name in CASES if name != "lne_strong"])


def tree(seed, dtype="float32"):
    """Numbers that every dtype holds exactly, and a leaf that is not there."""
    first, second = jax.random.split(jax.random.key(seed))
    a, b = (jax.random.normal(k, s, jnp.bfloat16) for k, s in ((first, (4, 3)), (second, (5,))))
    return {"a": a.astype(dtype), "b": b.astype(dtype), "none": [None]}


def toy(params, k, j):
    """Stands for dL/dQ on translated inputs."""
    return jax.tree.map(lambda w: (1 + k / 4 - j / 8) * w + 0.1 * k, params)


def updating(rule):
    """Its update, called with an argument that only RF-DNN knows and one that nobody does."""
    supported = rule if isinstance(rule, optax.MultiSteps) else optax.with_extra_args_support(rule)

    def update(gradient, state, params):
        extra = {"translated_gradient": toy, "nobody_knows_this": 1}
        return supported.update(gradient, state, params, **extra)

    return update


def run(update, state, params, gradients):
    found = []
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        found.append(updates)
    return found


PARAMS, GRADIENTS = tree(0), [tree(seed) for seed in (1, 2, 3)]


class Reference(NamedTuple):
    """Three updates in a row at the same weights."""

    update: Callable
    start: Any
    updates: list
    compilations: int


@functools.cache
def reference(name):
    rule = CASES[name].build()
    update, start = jax.jit(updating(rule)), rule.init(PARAMS)
    found = run(update, start, PARAMS, GRADIENTS)
    return Reference(update, start, found, update._cache_size())


def assert_close(found, expected, within=None):
    within = tolerance("algebra", "float32") if within is None else within
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(*(np.asarray(z, float) for z in (x, y)), within, within)


def times(factor, *trees):
    """The factor times the sum of the trees."""
    return jax.tree.map(lambda *x: (factor * sum(x)).astype(x[0].dtype), *trees)


def stacked(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def types(state):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)


@every_rule
def test_an_update_compiles_once_and_keeps_the_types_of_the_state(name):
    found = reference(name)
    assert found.compilations == 1
    after = jax.eval_shape(found.update, GRADIENTS[0], found.start, PARAMS)[1]
    assert types(after) == types(found.start)
    assert jax.tree.structure(after) == jax.tree.structure(found.start)
    for updates in found.updates:
        assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(updates))


def seen(name, count):
    """How many updates of one leaf do not depend on whether the rule sees the others."""
    return 1 if "metaquant" in name else count  # one network for all leaves


@every_fast_rule
def test_a_rule_with_momentum_for_some_leaves(name):
    ruled = optax.chain(CASES[name].build(), optax.sgd(0.1, momentum=0.9))
    labels = {"a": "rule", "b": "plain", "none": [None]}
    optimizer = optax.partition({"rule": ruled, "plain": optax.sgd(0.3)}, labels)
    gradients = GRADIENTS[: seen(name, 2)]
    found = run(jax.jit(updating(optimizer)), optimizer.init(PARAMS), PARAMS, gradients)
    first, second, _ = (updates["a"] for updates in reference(name).updates)
    expected = [-0.1 * first, -0.1 * (0.9 * first + second)]
    for updates, leaf, gradient in zip(found, expected, gradients, strict=False):
        assert_close(updates, {"a": leaf, "b": -0.3 * gradient["b"], "none": [None]})


@every_fast_rule
def test_accumulated_gradients_and_masked_leaves(name):
    masked = optax.masked(CASES[name].build(), {"a": False, "b": True, "none": [None]})
    optimizer = optax.MultiSteps(masked, 2)
    gradients = GRADIENTS[: seen(name, 2)]
    parts = [times(part, gradient) for gradient in gradients for part in (0.5, 1.5)]
    found = run(jax.jit(updating(optimizer)), optimizer.init(PARAMS), PARAMS, parts)
    assert_close(found[0], times(0.0, PARAMS))
    for updates, gradient, expected in zip(
        found[1::2], gradients, reference(name).updates, strict=False
    ):
        assert_close(updates, {**expected, "a": gradient["a"]})


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.scheduled])
def test_numbers_may_be_scheduled_by_optax(name):
    case = CASES[name]
    start = {"irnet": 0.1}.get(name) or case.options[case.scheduled]
    schedule = optax.linear_schedule(start, 0.7 * start, 1)
    factory = optax.inject_hyperparams(case.factory, static_args=case.static)
    injected = factory(**{**case.options, case.scheduled: schedule})
    update = jax.jit(updating(injected))
    first, state = update(GRADIENTS[0], injected.init(PARAMS), PARAMS)
    assert_close(first, reference(name).updates[0])
    # with every=2 the second update of RF-DNN computes no penalty: look at the first again
    inner = reference(name).start if case.scheduled == "step_size" else state.inner_state
    second, _ = update(GRADIENTS[1], state._replace(inner_state=inner), PARAMS)
    rule = case.build(**{case.scheduled: 0.7 * start})
    assert_close(second, jax.jit(updating(rule))(GRADIENTS[1], inner, PARAMS)[0])


@every_fast_rule
def test_updates_have_the_dtypes_of_the_weights(name):
    """In one tree: a in half, b in double precision."""
    params, gradient = ({**tree(i, "float64"), "a": tree(i, "bfloat16")["a"]} for i in (0, 1))
    found, _ = jax.jit(updating(rule := CASES[name].build()))(gradient, rule.init(params), params)
    assert (found["a"].dtype, found["b"].dtype) == ("bfloat16", "float64")
    for leaf, within in (("a", 2e-2), ("b", None)):
        single = found[leaf].astype("float32")
        assert_close(single, reference(name).updates[0][leaf], within)


@every_rule
def test_gradients_in_bfloat16_of_weights_in_float32(name):
    found = reference(name)
    updates, state = jax.eval_shape(found.update, tree(1, "bfloat16"), found.start, PARAMS)
    assert all(x.dtype == "bfloat16" for x in jax.tree.leaves(updates))
    assert types(state) == types(found.start)


@every_fast_rule
def test_seeds_may_be_vmapped_and_states_carried_by_a_scan(name):
    rule, seeds = CASES[name].build(), [PARAMS, times(30.0, tree(11))]

    @jax.jit
    @jax.vmap
    def path(params):
        def body(state, gradient):
            return updating(rule)(gradient, state, params)[::-1]

        return jax.lax.scan(body, rule.init(params), stacked(GRADIENTS))[1]

    found = path(stacked(seeds))
    for i, params in enumerate(seeds):
        expected = run(reference(name).update, rule.init(params), params, GRADIENTS)
        assert_close(jax.tree.map(lambda x, i=i: x[i], found), stacked(expected))


@every_rule
def test_no_two_leaves_share_a_buffer(name):
    """A training loop that overwrites its buffers may be given each of them only once."""
    leaves = jax.tree.leaves((PARAMS, CASES[name].build().init(PARAMS)))
    places = [leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", ["metaquant_fc", "lne_q", "rf_dnn", "proximal"])
def test_weights_and_state_may_be_donated(name):
    rule = CASES[name].build()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, gradient):
        updates, state = updating(rule)(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.copy, PARAMS)
    params, state = step(params, rule.init(params), GRADIENTS[0])
    assert_close(params, times(1, PARAMS, reference(name).updates[0]))
    step(params, state, GRADIENTS[1])


@every_rule
def test_errors_name_the_rule(name):
    case = CASES[name]
    rule, label = case.build(), f"^{case.label}: "
    update, state, gradient = updating(rule), rule.init(PARAMS), GRADIENTS[0]
    integers = {**PARAMS, "b": jnp.arange(5)}
    with pytest.raises(ValueError, match=label + "needs the latent weights"):
        update(gradient, state, None)
    for weights, slope in ((integers, gradient), (PARAMS, integers)):
        with pytest.raises(ValueError, match=label + r".*got int64 at \['b'\]"):
            update(slope, state, weights)
    with pytest.raises(ValueError, match=label + ".*different trees"):
        update({"a": gradient["a"]}, state, PARAMS)
    with pytest.raises(ValueError, match=label + r"at \['b'\] .*\(4,\).*\(5,\)"):
        update({**gradient, "b": jnp.ones(4)}, state, PARAMS)


@every_rule
def test_integer_weights_are_refused_at_the_start(name):
    case = CASES[name]
    with pytest.raises(ValueError, match=rf"^{case.label}: .*got int64 at \['b'\]"):
        case.build().init({**PARAMS, "b": jnp.arange(5)})


@every_fast_rule
def test_sharded_weights_give_sharded_updates(name):
    mesh = Mesh(np.array(jax.devices()[:4]), ("rows",))
    rows, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("rows", None))
    shardings = {"a": rows, "b": whole, "none": [None]}
    params, gradient = (jax.device_put(x, shardings) for x in (PARAMS, GRADIENTS[0]))
    found, _ = reference(name).update(gradient, CASES[name].build().init(params), params)
    assert_close(found, reference(name).updates[0])
    assert found["a"].sharding.is_equivalent_to(rows, 2)


@every_rule
def test_zeros_give_no_nan(name):
    nothing = times(0.0, PARAMS)
    state = reference(name).start
    for params, gradient in ((nothing, nothing), (nothing, GRADIENTS[0]), (PARAMS, nothing)):
        for _ in range(2):
            updates, state = reference(name).update(gradient, state, params)
            assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, state)))


@every_fast_rule
def test_optax_can_map_over_the_state(name):
    state = reference(name).start
    same = optax.tree.map_params(CASES[name].build(), lambda x: x, state)
    assert jax.tree.structure(same) == jax.tree.structure(state)
