"""A surface in space as a lit picture."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize


def shaded_surface(
    axis: Axes,
    position: np.ndarray,
    normals: np.ndarray,
    values: np.ndarray,
    *,
    limits: tuple[float, float],
    cmap: str = "plasma",
    view: tuple[float, float] = (25.0, 60.0),
    pixels: int = 1000,
) -> Axes:
    """A surface in space as a lit picture, coloured by numbers at its vertices.

    Hidden points are found pixel by pixel, so the surface may pass through itself, which sorted
    polygons do not show faithfully.

    Args:
        axis: where to draw; its frame is taken away.
        position: vertices of P patches, each an R x C grid, shape (P, R, C, 3).
        normals: normals at the vertices, of any length and on either side, same shape.
        values: numbers at the vertices, shape (P, R, C).
        limits: the numbers at the two ends of the colour map.
        cmap: a matplotlib colour map.
        view: elevation and azimuth of the eye in degrees.
        pixels: width and height of the picture.
    """
    fine = 2 * pixels  # four fine pixels are averaged into one
    turned = position.reshape(-1, 3) @ _camera(*view).T
    low, high = turned[:, :2].min(axis=0), turned[:, :2].max(axis=0)
    place = (turned[:, :2] - (low + high) / 2) / (high - low).max() * (fine - 2) + fine / 2
    triangles = _triangles(values.shape)
    pixel, triangle, share = _visible(place, turned[:, 2], triangles, fine)

    def interpolate(x: np.ndarray) -> np.ndarray:
        return np.einsum("fc,fc...->f...", share, x[triangles[triangle]])

    colours = colormaps[cmap](Normalize(*limits)(interpolate(values.ravel())))
    towards = interpolate(_unit(normals.reshape(-1, 3)) @ _camera(*view).T)
    colours[:, :3] = _lit(colours[:, :3], _unit(towards))
    image = np.zeros((fine * fine, 4))
    # the colour of an averaged pixel is that of its covered part
    image[pixel] = colours
    image = image.reshape(pixels, 2, pixels, 2, 4).mean(axis=(1, 3))
    image[..., :3] /= np.maximum(image[..., 3:], 0.25)
    axis.imshow(image, origin="lower", interpolation="antialiased")
    axis.set_axis_off()
    return axis


def colour_bar(
    axis: Axes, limits: tuple[float, float], *, cmap: str = "plasma", label: str = ""
) -> Axes:
    """The colours of a map as an upright bar that fills the axis."""
    mapped = ScalarMappable(Normalize(*limits), cmap)
    bar = axis.figure.colorbar(mapped, cax=axis, label=label)
    bar.outline.set_visible(False)
    axis.tick_params(length=0)
    return axis


def _camera(elevation: float, azimuth: float) -> np.ndarray:
    """Rows: to the right, upwards, towards the eye."""
    e, a = np.deg2rad([elevation, azimuth])
    eye = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.array([-np.sin(a), np.cos(a), 0])
    return np.stack([right, np.cross(eye, right), eye])


def _triangles(shape: Sequence[int]) -> np.ndarray:
    """Vertex numbers (T, 3): two triangles for every cell of every grid of shape (P, R, C)."""
    index = np.arange(np.prod(shape)).reshape(shape)
    a, b = index[:, :-1, :-1].ravel(), index[:, :-1, 1:].ravel()
    c, d = index[:, 1:, :-1].ravel(), index[:, 1:, 1:].ravel()
    return np.concatenate([np.stack([a, c, d], 1), np.stack([a, d, b], 1)])


def _visible(
    place: np.ndarray, height: np.ndarray, triangles: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is seen from above in each pixel of a square picture.

    Args:
        place: where the vertices are in the picture, in pixels, shape (V, 2).
        height: the highest is seen, shape (V,).
        triangles: vertex numbers, shape (T, 3).
        size: pixels on a side.

    Returns:
        The covered pixels (row * size + column), the triangle seen there, and the weights of its
        three corners there.
    """
    a, b, c = (place[triangles[:, k]] for k in range(3))
    area = _cross(b - a, c - a)
    low = np.ceil(np.minimum(np.minimum(a, b), c) - 0.5).astype(int)
    high = np.floor(np.maximum(np.maximum(a, b), c) - 0.5).astype(int)
    width, rows = np.where(area == 0, 0, (high - low + 1).T)
    count = width * rows
    found = []
    # every pixel of every bounding box, about a million at a time
    groups = np.flatnonzero(np.diff(np.cumsum(count) // 1_000_000)) + 1
    for some in np.split(np.arange(len(triangles)), groups):
        t = np.repeat(some, count[some])
        step = np.arange(len(t)) - np.repeat(np.cumsum(count[some]) - count[some], count[some])
        at = low[t] + np.stack([step % width[t], step // width[t]], axis=1)
        u, v, w = a[t] - at - 0.5, b[t] - at - 0.5, c[t] - at - 0.5
        share = np.stack([_cross(v, w), _cross(w, u), _cross(u, v)], axis=1) / area[t, None]
        # a little beyond the edges, so that neighbours leave no gap
        inside = np.all(share > -1e-9, axis=1) & np.all((at >= 0) & (at < size), axis=1)
        found.append((at[inside] @ [1, size], t[inside], share[inside]))
    pixel, triangle, share = (np.concatenate(x) for x in zip(*found, strict=True))
    order = np.argsort(np.sum(share * height[triangles[triangle]], axis=1))
    last = np.full(size * size, -1)
    last[pixel[order]] = order  # of repeated pixels the last one stays: the highest
    seen = last[last >= 0]
    return pixel[seen], triangle[seen], share[seen]


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]


def _unit(x: np.ndarray) -> np.ndarray:
    """Vectors (V, 3) scaled to length 1; zero stays zero."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def _lit(colours: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """RGB under a light above the eye, which looks along -z; both sides look alike."""
    normals = normals * np.where(normals[:, 2] < 0, -1, 1)[:, None]
    light = np.array([0.5, 0.9, 1.0]) / np.linalg.norm([0.5, 0.9, 1.0])
    half = light + np.array([0, 0, 1])
    half /= np.linalg.norm(half)
    diffuse = np.clip(normals @ light, 0, 1)[:, None]
    gloss = np.clip(normals @ half, 0, 1)[:, None] ** 60
    # a power darkens without greying, and shadows are warm: yellow turns gold, not olive
    shaded = colours ** (1.4 - 0.5 * diffuse) * (1 - (1 - diffuse) * [0.22, 0.4, 0.3])
    return np.clip(shaded + 0.25 * gloss, 0, 1)
