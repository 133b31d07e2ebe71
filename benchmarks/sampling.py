"""10^5 points of the Fermat quintic with weights and pull-back, against NumPy."""

import jax
import numpy as np

from benchmarks._timing import compare
from metricflow import geometry

POINTS = 100_000


def rows(points: int = POINTS) -> list[dict]:
    manifold = geometry.fermat(3)
    key = jax.random.key(0)
    return [
        compare(
            f"sample {points} quintic points, {dtype}",
            lambda d=dtype: geometry.sample_points(key, manifold, points, dtype=d),  # type: ignore[misc]
            {"NumPy, companion matrices": lambda: _numpy_sample(points)}
            if dtype == "float64"
            else {},
        )
        for dtype in ("float64", "float32")
    ]


def _numpy_sample(points: int) -> tuple[np.ndarray, ...]:
    """The same points by the eigenvalues of companion matrices, vectorised over lines."""
    rng = np.random.default_rng(0)
    lines = points // 5
    p, q = rng.normal(size=(2, lines, 5)) + 1j * rng.normal(size=(2, lines, 5))
    binomial = np.array([1, 5, 10, 10, 5, 1])
    k = np.arange(6)
    coefficients = binomial * np.sum(
        p[:, :, None] ** (5 - k) * q[:, :, None] ** k, axis=1
    )  # (lines, 6), ascending
    companion = np.zeros((lines, 5, 5), complex)
    companion[:, np.arange(1, 5), np.arange(4)] = 1
    companion[:, :, 4] = -coefficients[:, :5] / coefficients[:, 5:]
    t = np.linalg.eigvals(companion)
    z = (p[:, None] + t[..., None] * q[:, None]).reshape(-1, 5)
    scaled = np.argmax(np.abs(z), axis=1)
    z = z / np.take_along_axis(z, scaled[:, None], 1)
    slope = 5 * z**4
    masked = np.where(np.arange(5) == scaled[:, None], -1, np.abs(slope))
    eliminated = np.argmax(masked, axis=1)
    weight = np.sum(np.abs(z) ** 2, 1) ** 4 / np.sum(np.abs(slope) ** 2, 1)
    others = np.arange(5) != scaled[:, None]
    others &= np.arange(5) != eliminated[:, None]
    local = np.nonzero(others)[1].reshape(-1, 3)
    pullback = np.zeros((len(z), 3, 5), complex)
    row = np.arange(len(z))[:, None]
    pullback[row, np.arange(3), local] = 1
    steep = np.take_along_axis(slope, eliminated[:, None], 1)
    pullback[row, np.arange(3), eliminated[:, None]] = -np.take_along_axis(slope, local, 1) / steep
    return z, weight, pullback
