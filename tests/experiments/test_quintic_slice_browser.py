"""The page of the slice in a real browser: drawn where it should be, and turned by hand.

Run by ``pytest -m browser``, which needs Chromium: a ``chromium`` on the path, or the one that the
variable BROWSER names.
"""

import html
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from experiments import _page, quintic_slice

pytestmark = pytest.mark.browser

SIDE = 600
# Added at the end of the page.  What is drawn can be read in the task that drew it, not later.
PROBE = """
<script>
spinning = false;
function picture() {
  draw();
  const pixels = new Uint8Array(4 * canvas.width * canvas.height);
  gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  return pixels;
}
const same = (a, b) => a.every((x, i) => x === b[i]);
function box(pixels) {
  const found = { left: 1e9, right: -1, bottom: 1e9, top: -1, pixels: 0, reds: new Set() };
  for (let y = 0, i = 0; y < canvas.height; y++)
    for (let x = 0; x < canvas.width; x++, i += 4)
      if (Math.abs(pixels[i] - 247) + Math.abs(pixels[i + 2] - 243) > 12) {
        found.left = Math.min(found.left, x); found.right = Math.max(found.right, x);
        found.bottom = Math.min(found.bottom, y); found.top = Math.max(found.top, y);
        found.pixels++; found.reds.add(pixels[i]);
      }
  found.reds = found.reds.size;
  return found;
}
turn = look(25, 60);
const first = picture();
const report = { width: canvas.width, height: canvas.height, box: box(first), changed: {} };
report.still = same(first, picture());
const change = (name, act) => {
  const before = picture(); act(); report.changed[name] = !same(before, picture());
};
const pointer = (kind, more) => canvas.dispatchEvent(new PointerEvent(kind,
  { pointerId: 1, pointerType: "mouse", bubbles: true, ...more }));
change("drag", () => pointer("pointermove", { buttons: 1, movementX: 40, movementY: 10 }));
change("move without a button", () => pointer("pointermove", { buttons: 0, movementX: 40 }));
change("key", () => canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" })));
change("other key", () => canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "a" })));
change("wheel", () => canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -200 })));
change("angle", () => {
  get("angle").value = 120; get("angle").dispatchEvent(new Event("input"));
});
report.degrees = get("degrees").textContent;
report.error = gl.getError();
report.errors = window.problems;
const out = document.createElement("pre");
out.id = "report";
out.textContent = JSON.stringify(report);
document.body.append(out);
</script>
"""
WATCH = "<script>window.problems = []; onerror = m => { problems.push(m); };</script>"


def browser():
    names = (os.environ.get("BROWSER"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.fail("no browser: install chromium, or name one in the variable BROWSER")
    return found


def dumped(path, profile):
    """The document after its scripts have run."""
    flags = ["--headless", "--no-sandbox", f"--user-data-dir={profile}", "--use-angle=swiftshader"]
    flags += ["--enable-unsafe-swiftshader", f"--window-size={SIDE},{SIDE}"]
    flags += ["--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run(
        [browser(), *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    flags = ["--angle", "30", "--resolution", "12", "--name", "run", "--out", str(out)]
    assert quintic_slice.main(flags) == 0
    return out / "quintic_slice" / "run"


@pytest.fixture(scope="module")
def report(smoke, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    text = (smoke / "figures" / quintic_slice.PAGE).read_text()
    page = folder / "probed.html"
    page.write_text(text.replace("<head>", "<head>" + WATCH).replace("</body>", PROBE + "</body>"))
    said = re.search(r'<pre id="report">(.*?)</pre>', dumped(page, folder / "profile"), re.DOTALL)
    assert said, "the scripts of the page did not reach their end"
    return json.loads(html.unescape(said[1]))


def test_nothing_goes_wrong(report):
    assert report["errors"] == []
    assert report["error"] == 0


def test_the_surface_is_where_numpy_projects_it(report, smoke):
    with np.load(smoke / "slice.npz") as stored:
        z = stored["z"].reshape(-1, 5)
    largest = np.abs(np.stack([z[:, :2].real, z[:, :2].imag])).max()
    position = 1.15 * quintic_slice.projected(z, 30.0) / largest
    # the camera: at distance 6, 25 degrees above the plane, at 60 degrees in it
    e, a = np.deg2rad(25), np.deg2rad(60)
    right = np.array([-np.sin(a), np.cos(a), 0])
    up = np.array([-np.sin(e) * np.cos(a), -np.sin(e) * np.sin(a), np.cos(e)])
    towards = np.cross(right, up)
    factor = 3 / (6 - position @ towards) * min(report["width"], report["height"])
    x = report["width"] / 2 + factor * (position @ right) / 2
    y = report["height"] / 2 + factor * (position @ up) / 2
    found = report["box"]
    expected = [x.min(), x.max(), y.min(), y.max()]
    seen = [found["left"], found["right"] + 1, found["bottom"], found["top"] + 1]
    assert seen == pytest.approx(expected, abs=2)
    assert found["reds"] > 50  # shaded and coloured, not one flat patch
    assert 0.1 < found["pixels"] / (report["width"] * report["height"]) < 0.7


def test_it_is_turned_by_hand_and_stands_still_otherwise(report):
    assert report["still"]
    changed = report["changed"]
    assert not changed.pop("move without a button")
    assert not changed.pop("other key")
    assert all(changed.values()), changed
    assert report["degrees"] == "120°"


def test_the_page_draws_in_the_frame_of_a_notebook(smoke, tmp_path):
    source = smoke / "probed.html"
    # a frame has no size until the page around it is laid out
    reply = """<script>
    spinning = false;
    const tell = () => {
      draw();
      if (canvas.width > 0) parent.postMessage(String(gl.getError()) + canvas.width, "*");
      else setTimeout(tell, 200);
    };
    tell();
    </script>"""
    text = (smoke / "figures" / quintic_slice.PAGE).read_text()
    source.write_text(text.replace("</body>", reply + "</body>"))
    outer = tmp_path / "outer.html"
    hear = "<script>onmessage = e => { document.body.dataset.said = e.data; };</script>"
    outer.write_text(f"<!DOCTYPE html><body>{hear}{_page.embedded(source, 300)}</body>")
    said = re.search(r'data-said="(\d+)"', dumped(outer, tmp_path / "profile"))
    assert said
    assert said[1][0] == "0"
    assert int(said[1][1:]) > 100
