"""The script that runs a peer: what it computes itself, and what it does without the peer."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import peer_mlgeometry as peer
from metricflow import diagnostics, geometry


@pytest.fixture(params=["fermat:3", "general"])
def manifold(request, tmp_path):
    """The same hypersurface for the script and for the library."""
    if request.param == "fermat:3":
        return peer.polynomial("fermat:3"), geometry.fermat(3)
    exponents = [[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 4], [2, 1, 1, 0], [0, 1, 1, 2]]
    real, imaginary = np.random.default_rng(0).normal(size=(2, 6))
    content = {"exponents": exponents, "real": real.tolist(), "imag": imaginary.tolist()}
    path = tmp_path / "general.json"
    path.write_text(json.dumps(content))
    return peer.polynomial(str(path)), geometry.hypersurface(exponents, real + 1j * imaginary)


def test_points_weights_and_sigma_are_those_of_the_library(manifold):
    p, ours = manifold
    z = peer.sample(np.random.default_rng(1), p, 2000)
    assert float(jnp.max(geometry.residual(ours, jnp.asarray(z)))) < 1e-12
    points = geometry.points_at(ours, jnp.asarray(z))
    data = peer.dataset(p, z)
    np.testing.assert_allclose(data["mass"], points.weight, rtol=1e-5)
    np.testing.assert_allclose(data["Omega_Omegabar"], points.omega2, rtol=1e-5)
    # Fubini-Study by way of the restriction
    w, tangent = data["points"].astype(complex), data["restriction"].astype(complex)
    size = np.sum(np.abs(w) ** 2, 1)[:, None, None]
    ambient = np.eye(w.shape[1]) / size - w.conj()[:, :, None] * w[:, None, :] / size**2
    determinant = np.linalg.det(tangent @ ambient @ tangent.conj().swapaxes(1, 2)).real
    g = geometry.fubini_study_metric(points)
    expected = float(diagnostics.sigma_measure(g, points))
    assert peer.sigma(determinant, data) == pytest.approx(expected, rel=1e-5)


def test_rows_are_taken_by_the_clock_and_measuring_is_not_on_it():
    class Ticks:
        now = 0.0

        def seconds(self):
            return self.now

        def without(self, function):
            return function()

    clock = Ticks()

    def count(start):
        while True:
            clock.now += 1
            start += 1
            yield start

    stages = ((count, 5.0), (lambda start: iter([-start]), 9.0))
    rows = list(peer.training_rows(stages, 0, float, 2.0, clock))
    assert rows == [[0.0, 0.0], [2.0, 2.0], [4.0, 4.0], [5.0, 5.0], [5.0, -5.0]]


def test_a_peer_that_is_not_there_is_a_result(tmp_path):
    out, log = tmp_path / "out.json", tmp_path / "log"
    log.write_text("Collecting x\nERROR: No matching distribution\nmake: *** Error 1\n")
    script = Path(peer.__file__)
    command = [sys.executable, str(script), "--out", str(out)]
    for extra, reason in ((["--not-run", str(log)], "ERROR: No matching"), ([], "MLGeometry")):
        subprocess.run([*command, *extra], check=True, capture_output=True)
        found = json.loads(out.read_text())
        assert (found["status"], found["rows"]) == ("not run", [])
        assert reason in found["reason"]


def test_results_name_no_folders(tmp_path):
    options = peer.parse(["--points-file", str(tmp_path / "z.npz"), "--manifold", "a/b.json"])
    found = peer.settings(options)
    assert (found["points_file"], found["manifold"]) == ("z.npz", "b.json")
    assert str(tmp_path) not in json.dumps(found)
