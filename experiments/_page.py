"""The slice z_1^d + z_2^d = 1 as one HTML page to turn it in: no network, no library.

The page holds the mesh as JSON and draws it with a few lines of WebGL, ``_page.html``.
"""

import html
import json
from pathlib import Path

import numpy as np
from matplotlib import colormaps

from metricflow._files import write_atomically

_BYTES = 1_000_000
_INDICES = 65_536  # vertices that the 16-bit indices of WebGL reach
_UNITS = 9999  # coordinates are stored as integers up to this
_LEVELS = 255


def write_page(
    path: Path,
    z: np.ndarray,
    values: np.ndarray,
    *,
    limits: tuple[float, float],
    cmap: str,
    angle: float,
    title: str,
    text: str,
) -> None:
    """Write the page.

    Args:
        path: where.
        z: points of the slice, P patches that are R x C grids, shape (P, R, C, n + 2).
        values: what the colours show, shape (P, R, C).
        limits: the values at the two ends of the colour map.
        cmap: a matplotlib colour map.
        angle: the angle of the projection to start with, in degrees.
        title: plain text.
        text: a line below the title, plain but for <sup>.

    Raises:
        ValueError: more points than a page of 1 MB holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh = mesh_data(z, values, limits=limits, cmap=cmap, angle=angle)
    line = html.escape(text).replace("&lt;sup&gt;", "<sup>").replace("&lt;/sup&gt;", "</sup>")
    page = Path(__file__).with_name("_page.html").read_text()
    page = page.replace("{{title}}", html.escape(title)).replace("{{text}}", line)
    content = page.replace("{{data}}", json.dumps(mesh, separators=(",", ":"))).encode()
    if len(content) > _BYTES or values.size > _INDICES:
        raise ValueError(f"{path}: pages stay under 1 MB; give a lower --resolution")
    write_atomically(path, content)


def embedded(path: Path, height: int = 640) -> str:
    """A page as HTML that a notebook shows: the whole page in a frame, so the file may go."""
    source = html.escape(path.read_text())
    return (
        f'<div><iframe srcdoc="{source}" width="100%" height="{height}" '
        'style="border: 0" sandbox="allow-scripts"></iframe></div>'
    )


def mesh_data(
    z: np.ndarray, values: np.ndarray, *, limits: tuple[float, float], cmap: str, angle: float
) -> dict:
    """The mesh as the page reads it: flat lists of integers, Re z_1, Im z_1, Re z_2, Im z_2."""
    coordinates = np.stack([z[..., 0].real, z[..., 0].imag, z[..., 1].real, z[..., 1].imag], -1)
    scale = float(np.abs(coordinates).max()) / _UNITS
    low, high = limits
    share = np.clip((values - low) / (high - low if high > low else 1), 0, 1)
    return {
        "degree": z.shape[-1],
        "shape": list(values.shape),
        "scale": scale,
        "coordinates": np.rint(coordinates / scale).astype(int).ravel().tolist(),
        "values": np.rint(share * _LEVELS).astype(int).ravel().tolist(),
        "levels": _LEVELS,
        "limits": [low, high],
        "colours": np.rint(colormaps[cmap](np.linspace(0, 1, 33))[:, :3] * 255)
        .astype(int)
        .tolist(),
        "angle": angle,
    }
