import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments import quintic_slice
from metricflow import diagnostics, geometry, plotting, save_metric
from metricflow.flows import KernelMetric
from metricflow.kernels import Delta
from tests.tolerances import tolerance

NUMBERS = ("residual", "kappa", "eta_mean", "limits", "points", "patches")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert quintic_slice.main(["--preset", "smoke", "--out", str(out)]) == 0
    return out / "quintic_slice" / "smoke"


class Page(HTMLParser):
    """The title, the addresses and the data of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.data, self._inside = [], [], None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._inside = dict(attributes).get("id")
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "surface":
            self.data = json.loads(data)


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_the_slice_is_on_the_hypersurface_and_its_charts_are_finite(dim):
    manifold = geometry.fermat(dim)
    z = quintic_slice.slice_points(dim, 6)
    assert z.shape == (dim + 2, dim + 2, 7, 7, dim + 2)
    points = z.reshape(-1, dim + 2)
    assert float(jnp.max(geometry.residual(manifold, points))) < 1e-12
    chart = geometry.FubiniStudyMetric(manifold).chart(points)
    found = geometry.points_at(manifold, points, chart=chart)
    assert all(np.all(np.isfinite(x)) for x in found)
    assert np.abs(points[:, 2:]).min() > 0.5


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_patches_join_to_one_surface(dim):
    z = quintic_slice.slice_points(dim, 6)
    small = tolerance("rounding")
    next_in_z1, next_in_z2 = np.roll(z, -1, axis=0), np.roll(z, -1, axis=1)
    assert np.allclose(z[:, :, -1, :4], next_in_z1[:, :, -1, :2:-1], rtol=0, atol=small)
    assert np.allclose(z[:, :, 0, 3:], next_in_z2[:, :, 0, 3::-1], rtol=0, atol=small)
    # the point with z_1 = 0 is common to the d patches of one l
    zeros = z[:, :, -1, 3]
    assert np.all(zeros[..., 0] == 0)
    assert np.allclose(zeros, zeros[:1], rtol=0, atol=small)
    assert np.abs(np.diff(zeros[0, :, 1])).min() > 0.5


def test_normals_are_those_of_the_projected_grid():
    z = quintic_slice.slice_points(3, 200)[1, 2]
    position = quintic_slice.projected(z, 30.0)
    numerical = np.cross(np.gradient(position, axis=0), np.gradient(position, axis=1))
    normal = quintic_slice.projected_normals(z, 30.0)
    inner = (slice(40, 80), slice(40, 80))
    cosine = np.sum(normal * numerical, -1) / (
        np.linalg.norm(normal, axis=-1) * np.linalg.norm(numerical, axis=-1)
    )
    assert np.abs(cosine[inner]).min() > 1 - 1e-3
    assert np.ptp(np.sign(cosine[inner])) == 0


def test_the_numbers_of_a_run(smoke):
    result = json.loads((smoke / "result.json").read_text())
    for name in NUMBERS:
        assert np.all(np.isfinite(result[name])), name
    assert result["residual"] < 1e-12
    assert (result["patches"], result["points"]) == (25, 25 * 5 * 5)
    with np.load(smoke / "slice.npz") as stored:
        z, values = stored["z"], stored["values"]
    assert z.shape == (*values.shape, 5)
    # Fubini-Study in closed form: det g / |Omega|^2 = |dP|^2 / |z|^8, and |dP|^2 = 25 sum |z|^8
    size = np.abs(z) ** 2
    ratio = 25 * np.sum(size**4, -1) / np.sum(size, -1) ** 4
    assert np.allclose(values, np.log(ratio / result["kappa"]), rtol=0, atol=tolerance("algebra"))


def test_the_mean_of_eta_of_fubini_study_is_one(smoke):
    """On a sample that kappa was not estimated from."""
    assert json.loads((smoke / "result.json").read_text())["eta_mean"] == pytest.approx(1, abs=0.05)


def test_the_page_holds_the_mesh_and_needs_nothing_else(smoke):
    path = smoke / "figures" / "slice.html"
    page = Page(path.read_text())
    assert path.stat().st_size < 1_000_000
    assert page.addresses == []
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert "{{" not in path.read_text()
    assert "://" not in path.read_text()
    mesh = page.data
    assert mesh["degree"] == 5
    assert mesh["shape"] == [25, 5, 5]
    with np.load(smoke / "slice.npz") as stored:
        z, values = stored["z"].reshape(-1, 5), stored["values"].ravel()
    coordinates = np.reshape(mesh["coordinates"], (-1, 4)) * mesh["scale"]
    wanted = np.stack([z[:, 0].real, z[:, 0].imag, z[:, 1].real, z[:, 1].imag], 1)
    assert np.abs(coordinates - wanted).max() <= mesh["scale"] / 2 * (1 + 1e-9)
    low, high = mesh["limits"]
    colours = low + np.array(mesh["values"]) / mesh["levels"] * (high - low)
    assert np.abs(colours - values).max() <= (high - low) / mesh["levels"]
    assert (smoke / "figures" / "slice.png").stat().st_size > 10_000


def test_the_published_page_is_that_of_the_published_run():
    docs = Path(__file__).parent.parent.parent / "docs"
    text = (docs / "_static" / "quintic_slice.html").read_text()
    result = json.loads((docs / "results" / "quintic_slice.json").read_text())
    page = Page(text)
    assert page.data["limits"] == pytest.approx(result["limits"], rel=1e-5)
    assert page.data["shape"][0] == result["patches"]
    assert np.prod(page.data["shape"]) == result["points"]
    assert "fermat_quintic" in text
    # drawn by the page as it is now
    template = Path(quintic_slice._page.__file__).with_name("_page.html").read_text()
    drawing = template[template.index('"use strict"') :]
    assert text.endswith(drawing)


def test_a_notebook_shows_the_same_page_in_a_frame(smoke, tmp_path):
    shown = quintic_slice.interactive(smoke).data
    frame = re.fullmatch(r'<div><iframe srcdoc="(.*?)" width=.*</iframe></div>', shown, re.DOTALL)
    assert html.unescape(frame[1]) == (smoke / "figures" / "slice.html").read_text()
    with pytest.raises(ValueError, match=r"slice\.html: no such file; run or --redraw"):
        quintic_slice.interactive(tmp_path)


def test_what_does_not_fit_on_a_page_is_refused(tmp_path):
    z = quintic_slice.slice_points(1, 90)
    patches = z.reshape(-1, *z.shape[2:])
    with pytest.raises(ValueError, match="--resolution"):
        quintic_slice._page.write_page(
            tmp_path / "a.html",
            patches,
            np.zeros(patches.shape[:-1]),
            limits=(0, 1),
            cmap="plasma",
            angle=0,
            title="",
            text="",
        )


def test_the_ricci_scalar_is_that_of_differences_along_the_curve():
    """On a cubic, in the chart (1, x, y(x)): R = -d dbar log g / g by central differences."""
    manifold = geometry.fermat(1)
    metric = geometry.FubiniStudyMetric(manifold)
    x, step = 0.3 + 0.4j, 1e-3

    def at(x):
        y = -((1 + x**3) ** (1 / 3))
        return geometry.points_at(manifold, np.array([[1, x, y]]), chart=(0, 2))

    def log_g(x):
        return float(jnp.log(metric(at(x).z, (0, 2))[0, 0, 0].real))

    around = sum(log_g(x + step * 1j**k) for k in range(4))
    mixed = (around - 4 * log_g(x)) / (4 * step**2)
    expected = -mixed / np.exp(log_g(x))
    assert float(diagnostics.ricci_scalar(metric, at(x))[0]) == pytest.approx(expected, rel=1e-4)


def test_the_ricci_scalar_is_a_scalar_of_mean_zero():
    """The same in every chart; its integral is c_1 times a power of the Kaehler class: zero."""
    manifold = geometry.fermat(2)
    metric = geometry.FubiniStudyMetric(manifold)
    points = geometry.sample_points(jax.random.key(1), manifold, 3000)
    values = np.asarray(diagnostics.ricci_scalar(metric, points))
    assert values.std() > 0.5
    by_line = values.reshape(-1, 4).mean(1)  # the points of one line are correlated
    assert abs(by_line.mean()) < 5 * by_line.std() / np.sqrt(len(by_line))
    turned = geometry.points_at(manifold, points.z, chart=points.chart[:, ::-1])
    again = np.asarray(diagnostics.ricci_scalar(metric, turned))
    size = np.abs(np.take_along_axis(np.asarray(points.z), np.asarray(turned.chart), 1))
    regular = size.min(1) > 0.5  # neither chart is near its end
    assert regular.sum() > 100
    assert np.allclose(again[regular], values[regular], atol=1e-8)


def test_a_saved_metric_is_drawn_by_its_curvature(tmp_path):
    path = tmp_path / "metric.npz"
    save_metric(path, geometry.FubiniStudyMetric(geometry.fermat(1)))
    flags = ["--preset", "smoke", "--metric", str(path), "--colour", "ricci", "--angle", "20"]
    assert quintic_slice.main([*flags, "--out", str(tmp_path)]) == 0
    folder = tmp_path / "quintic_slice" / "smoke"
    result = json.loads((folder / "result.json").read_text())
    assert (result["metric"], result["dim"], result["angle"]) == ("metric.npz", 1, 20)
    with np.load(folder / "slice.npz") as stored:
        points = geometry.points_at(geometry.fermat(1), stored["z"].reshape(-1, 3))
        values = stored["values"].ravel()
    metric = geometry.FubiniStudyMetric(geometry.fermat(1))
    # a curve: unit volume divides by the area 3 pi, and the scalar is -d dbar log eta / g
    plain = diagnostics.ricci_scalar(metric, points)
    assert np.allclose(values, 3 * np.pi * plain, rtol=tolerance("sum"))
    g = metric(points.z, points.chart)
    assert float(quintic_slice.volume(metric, g, points)) == pytest.approx(3 * np.pi)
    assert np.all(np.isfinite(diagnostics.eta(g, points)))


def test_a_locally_constant_metric_has_no_curvature_to_draw(tmp_path, capsys):
    manifold = geometry.fermat(1)
    centres = geometry.sample_points_in_chart(jax.random.key(0), manifold, 4).z
    home = geometry.home_chart(manifold)
    metric = KernelMetric(manifold, Delta(), centres, jnp.zeros((4, 1)), home, False)
    save_metric(tmp_path / "metric.npz", metric)
    flags = ["--metric", str(tmp_path / "metric.npz"), "--colour", "ricci", "--out", str(tmp_path)]
    assert quintic_slice.main(flags) == 2
    assert "--colour ricci: the correction of the delta kernel" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--manifold", "dwork:1:0.5"], "Fermat hypersurfaces only"),
        (["--metric", "a.npz", "--manifold", "fermat:1"], "--manifold"),
        (["--metric", "none.npz"], "no such file"),
        (["--resolution", "1"], "--resolution"),
        (["--angle", "nan"], "--angle"),
    ],
)
def test_wrong_flags_are_one_line_errors(tmp_path, capsys, flags, message):
    assert quintic_slice.main(["--preset", "smoke", "--out", str(tmp_path), *flags]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert message in error[0]


def test_the_surface_in_front_hides_the_one_behind():
    """Two squares, seen from above; the larger is below and shows around the other."""
    side = np.array([-1.0, 1.0])
    square = np.stack([*np.meshgrid(side, side), np.zeros((2, 2))], -1)
    position = np.stack([square, square * 0.5 + [0, 0, 1]])
    normals = np.broadcast_to([0.0, 0.0, -3.0], position.shape)
    values = np.stack([np.zeros((2, 2)), np.ones((2, 2))])
    figure, axis = plt.subplots()
    for order in (slice(None), slice(None, None, -1)):
        axis.clear()
        plotting.shaded_surface(
            axis,
            position[order],
            normals[order],
            values[order],
            limits=(0, 1),
            cmap="gray",
            view=(90, 0),
            pixels=40,
        )
        image = np.asarray(axis.images[0].get_array())
        assert image.shape == (40, 40, 4)
        assert image[1:-1, 1:-1, 3].min() == 1
        bright = image[..., 0] > 0.6
        assert np.all(bright[11:29, 11:29])
        assert bright.sum() == pytest.approx(400, abs=80)
    plt.close(figure)
