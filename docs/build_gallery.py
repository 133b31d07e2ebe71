"""Make docs/gallery.md from the figures that the other pages show.

``python docs/build_gallery.py`` writes the page; ``--check`` only says whether it is up to date.
"""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
FIGURE = re.compile(r"^!\[([^\]]+)\]\((results/[^)]+)\)$", re.MULTILINE)
# they show what other pages explain
SHOWN_AGAIN = ("getting_started", "paper_metric_flows", "paper_discretised")


def page(docs: Path) -> str:
    """All figures in the order of the table of contents, with the pages that explain them."""
    trees = re.findall(r"```\{toctree\}.*?\n\n(.*?)```", (docs / "index.md").read_text(), re.S)
    names = [name for tree in trees for name in tree.split()]
    lines = [
        "# Gallery",
        "",
        "Every figure of these pages; numbers and commands are where they come from.",
    ]
    for name in names:
        if name in ("gallery", *SHOWN_AGAIN):
            continue
        text = (docs / f"{name}.md").read_text()
        figures = FIGURE.findall(text)
        if figures:
            title = text.splitlines()[0].removeprefix("# ")
            lines += ["", f"## [{title}]({name}.md)"]
        for caption, path in figures:
            lines += ["", f"![{caption}]({path})", "", f"{caption}."]
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    target, text = DOCS / "gallery.md", page(DOCS)
    if "--check" not in arguments:
        target.write_text(text)
    elif not target.exists() or target.read_text() != text:
        print("docs/gallery.md is out of date: run python docs/build_gallery.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
