"""Bad calls of the whole public interface: one line from the library each, no silent NaN."""

import collections
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from metricflow import clustering, diagnostics, discretize, geometry, kernels

from . import mutations, valid_calls


@pytest.fixture(autouse=True)
def tracebacks_are_whole():
    """Frames of jax are seen, and whatever the test set is put back."""
    yield
    jax.config.update("jax_traceback_filtering", "auto")


@pytest.fixture(scope="module")
def material():
    return valid_calls.Material()


@pytest.fixture
def axis():
    figure = plt.figure()
    yield figure.gca()
    plt.close(figure)


@pytest.mark.heavy
@pytest.mark.parametrize("room", valid_calls.ROOMS)
def test_every_bad_call_is_one_line_from_the_library(room, as_user, tmp_path, axis, material):
    tried, wrong = collections.Counter(), []
    for call in valid_calls.valid_calls(room, axis, tmp_path, material):
        for bad in mutations.bad_calls(call, material):
            outcome = mutations.run(bad)
            tried[call.name, bad.kind, outcome.verdict] += 1
            if outcome.verdict != "one line":
                wrong.append(f"{call.name}({bad.argument}), {bad.kind}: {outcome}")
    path = os.environ.get("METRICFLOW_BAD_INPUTS_JSON")
    if path:
        publish(Path(path), "calls", {room: counts(tried)})
    assert not wrong, "\n".join(wrong)
    assert sum(tried.values()) >= 2 * len({name for name, *_ in tried})
    assert list(tmp_path.iterdir()) == []


def counts(tried):
    """What was tried and what came of it, in all and by kind."""

    def row(kind=None):
        verdict = collections.Counter()
        for key, number in tried.items():
            if kind in (None, key[1]):
                verdict[key[2]] += number
        return {
            "tried": sum(verdict.values()),
            "one_line_errors": verdict["one line"],
            "tracebacks_from_elsewhere": verdict["foreign"] + verdict["long"],
            "silent_nan": verdict["nan"],
            "accepted": verdict["accepted"],
        }

    kinds = sorted({kind for _, kind, _ in tried})
    return (
        row()
        | {"functions": len({name for name, *_ in tried}), "overwritten": 0}
        | {"by_kind": {kind: row(kind)["tried"] for kind in kinds}}
    )


def publish(path, part, report):
    """Add to the file, in which other parts may stand already."""
    found = json.loads(path.read_text()) if path.exists() else {}
    found[part] = found.get(part, {}) | report
    path.write_text(json.dumps(found, indent=1) + "\n")


@pytest.mark.heavy
@pytest.mark.parametrize("room", valid_calls.ROOMS)
def test_every_valid_call_is_valid(room, tmp_path, axis, material):
    """Else bad calls would fail for another reason."""
    files = ("load", "read_", "ImageStream", "save_", "Checkpoints")
    for call in valid_calls.valid_calls(room, axis, tmp_path, material):
        if not call.name.startswith(files):
            axis.clear()
            call.function(*call.arguments, **call.options)


FERMAT = geometry.fermat(1)
Z = np.array([[1, 0.5, -1.04], [1, 0.2, -1.003]]) + 0j
G = np.ones((2, 1, 1), complex)
W = np.linspace(-1, 1, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geometry.gradient(FERMAT, Z.real), "z: expected complex.*got float64"),
        (lambda: geometry.gradient(FERMAT, Z[:, :2]), r"k = 3 in the Hypersurface, got .*\(2, 2\)"),
        (lambda: geometry.gradient(FERMAT, Z * np.nan), "z: 6 of 6 entries are NaN"),
        (lambda: geometry.gradient("fermat", Z), "manifold: expected a Hypersurface, got str"),
        (lambda: geometry.pullback(FERMAT, Z, (0, 3)), "chart: expected indices from 0 to 2"),
        (lambda: geometry.pullback(FERMAT, Z, (1, 1)), "chart: expected two different indices"),
        (lambda: geometry.points_at(FERMAT, Z + 1), "2 of 2 points are off the hypersurface"),
        (lambda: geometry.sample_points(0, FERMAT, 2), "key: expected a random key"),
        (lambda: geometry.fermat("3"), "dim: expected an integer, got str '3'"),
        (lambda: geometry.pairwise_distance(Z, Z[:, :2]), r"z2: expected .*got .*shape \(2, 2\)"),
        (lambda: geometry.hermitian_inverse(np.ones((2, 3))), r"expected a complex array"),
        (lambda: diagnostics.eta(G, Z), "points: expected a Points, got complex128"),
        (lambda: kernels.Gaussian(-1.0), "width"),
        (lambda: kernels.Gaussian("wide"), "width"),
        (lambda: kernels.dense(3, Z, Z), "kernel: expected an object with a method matrix"),
        (lambda: clustering.birch_clusters(Z, 1.5), "count: expected an integer.* got 1.5"),
        (lambda: discretize.quantize(W, 0), "bits"),
        (lambda: discretize.quantize(W, 1.5), "bits: expected an integer"),
        (lambda: discretize.quantize(W, None), "bits: expected an integer.* got None"),
        (lambda: geometry.nearest_neighbour(Z, chunk=-1), "chunk: expected an integer of at least"),
    ],
)
def test_a_few_bad_calls(as_user, call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_what_jax_does_with_functions_goes_through_the_door(as_user):
    """jit, vmap and grad see shapes only; a wrong shape is seen while tracing too."""
    z = jnp.asarray(Z)
    for traced in (jax.jit(geometry.gradient), jax.vmap(geometry.gradient, (None, 0))):
        np.testing.assert_allclose(traced(FERMAT, z), geometry.gradient(FERMAT, z), rtol=1e-12)
    with pytest.raises(ValueError, match="k = 3 in the Hypersurface"):
        jax.jit(geometry.gradient)(FERMAT, z[:, :2])
    slope = jax.grad(lambda w: jnp.sum(discretize.lne_potential(w, 0.1)))(jnp.asarray(W))
    assert np.all(np.isfinite(slope))


def test_an_index_of_a_coordinate_is_no_chart(as_user):
    """Two points may have the same coordinate eliminated."""
    found = geometry.fubini_study_determinant(FERMAT, Z, np.array([2, 2]))
    assert found.shape == (2,)
    with pytest.raises(ValueError, match="eliminated: expected indices from 0 to 2"):
        geometry.fubini_study_determinant(FERMAT, Z, np.array([2, 3]))


def test_lists_of_numbers_are_arrays(as_user):
    np.testing.assert_array_equal(
        geometry.gradient(FERMAT, [1, 2, 3]), geometry.gradient(FERMAT, np.array([1, 2, 3]) + 0j)
    )
