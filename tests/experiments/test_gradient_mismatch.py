import json

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _digits, gradient_mismatch, lne_inverse


def test_mismatch_end_to_end(tmp_path):
    assert gradient_mismatch.main(["--preset", "smoke", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "gradient_mismatch" / "smoke"
    result = json.loads((folder / "result.json").read_text())
    assert len(result["rows"]) == 2 * 2 * 2  # normalised or not, epochs, layers
    for row in result["rows"]:
        cosines = [v for k, v in row.items() if "/" in k]
        assert max(map(abs, cosines)) <= 1 + 1e-5
        if row["batch_norm"]:
            assert abs(row["radial"]) < 1e-3  # the loss does not feel the scale of Q(w)
        # in a layer of 64 x 16 the tangents are the weights but for a curvature
        assert row["cos_tangent_w"] > 0.999 or row["layer"] == 1
    assert (folder / "figures" / "mismatch.png").stat().st_size > 5000


def test_differences_of_a_quadratic_loss_are_its_gradient():
    """For a loss quadratic in the weights, D_i = dL/dQ_i - H_ii Q_i: known in closed form."""
    key = jax.random.key(0)
    w = jax.random.normal(key, (6, 1))
    x = jax.random.normal(jax.random.key(1), (9, 6))

    def loss(weights, rest, images, labels):
        return jnp.mean((images @ weights[0]) ** 2)

    split = _digits.Split(x, jnp.zeros(9))
    config = gradient_mismatch.Config(probes=6, q=0.5)
    (row,) = gradient_mismatch._measured(config, loss, split, key, (w,), None, (w,))
    q = jnp.sign(w)
    hessian = 2 * x.T @ x / 9
    slope = hessian @ q
    difference = slope - jnp.diag(hessian)[:, None] * q
    cosine = jnp.vdot(slope, difference) / jnp.linalg.norm(slope) / jnp.linalg.norm(difference)
    np.testing.assert_allclose(row["difference/ste"], cosine, rtol=1e-5)
    mismatch = jnp.linalg.norm(slope - difference) / jnp.linalg.norm(difference)
    np.testing.assert_allclose(row["mismatch"], mismatch, rtol=1e-5)
    assert row["closeness_in_an_epoch"] == 0


def test_a_wrong_share_is_named(tmp_path, capsys):
    assert gradient_mismatch.main(["--q", "1.5", "--out", str(tmp_path)]) == 2
    assert "q: expected a number below 1" in capsys.readouterr().err


def test_inverses_end_to_end(tmp_path):
    assert lne_inverse.main(["--preset", "smoke", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "lne_inverse" / "smoke"
    for row in json.loads((folder / "result.json").read_text())["rows"]:
        assert row["exact"] < 1e-13
        np.testing.assert_allclose(row["weak"], row["q"] ** 2, rtol=1e-9)
        assert row["exact"] < row["strong"]
    assert (folder / "figures" / "inverses.png").stat().st_size > 5000
    assert lne_inverse.main(["--steps", "0", "--out", str(tmp_path)]) == 2
