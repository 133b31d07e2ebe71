"""Sphinx configuration: MyST-NB pages, docstrings in Google style, warnings are errors."""

import re
import sys
from pathlib import Path

from metricflow import __version__

sys.path.insert(0, str(Path(__file__).parent))
import build_equations

EQUATIONS = build_equations.listed(Path(__file__).parent / "equations.toml")

project = "metricflow"
author = "The metricflow developers"
copyright = author
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "results/*.json"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_custom_sections = [("Source", "notes_style")]
html_theme = "pydata_sphinx_theme"
html_title = "metricflow"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {"**": ["globaltoc.html"]}  # all pages beside each
html_theme_options = {
    "navbar_center": [],
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}
suppress_warnings = ["misc.highlighting_failure"]
napoleon_use_ivar = True


def escape_bars(app, what, name, obj, options, lines):
    """Formulas in docstrings are plain text: |z| is no substitution, a* no emphasis."""
    for i, line in enumerate(lines):
        parts = re.split(r"(``.*?``|:\w+:`.*?`)", line)
        lines[i] = "".join(
            part if k % 2 else re.sub(r"([|*])", r"\\\1", part) for k, part in enumerate(parts)
        )


def write_out_equations(app, what, name, obj, options, lines):
    """Below the equations that a docstring names as its source, what they say."""
    lines[:] = build_equations.with_formulas(lines, EQUATIONS)


def skip_aliases(app, what, name, obj, skip, options):
    """The fields of named tuples are described by their class."""
    return skip or str(getattr(obj, "__doc__", "")).startswith("Alias for field") or None


def setup(app):
    """Run before napoleon reads the docstrings."""
    app.connect("autodoc-process-docstring", escape_bars, priority=100)
    app.connect("autodoc-process-docstring", write_out_equations, priority=200)
    app.connect("autodoc-skip-member", skip_aliases)
