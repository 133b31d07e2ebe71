"""Benchmarks as text, beside an older run, and as a figure; from stored numbers alone."""

import json
from collections.abc import Iterator
from pathlib import Path

_NOTICEABLE = 1.2  # a ratio of processor seconds that is worth a line


def lines(rows: list[dict]) -> Iterator[str]:
    """What a person reads: seconds, ratios to peers, growth."""
    for row in rows:
        ours = row["ours"]
        yield row["name"]
        yield (
            f"  ours {ours['cpu']:.3f} cpu s, {ours['wall']:.3f} wall s "
            f"({ours['wall_min']:.3f} ... {ours['wall_max']:.3f}), first {ours['first_call']:.2f}"
        )
        for peer, found in row["peers"].items():
            yield (
                f"  {peer}: {found['cpu']:.3f} cpu s; ours / peer {found['ratio']:.2f}, "
                f"wall {found['wall_ratio']:.2f}"
            )
        if "growth" in row:
            growth = row["growth"]
            peer = f", LAPACK's {growth['lapack']:.2f}" if "lapack" in growth else ""
            yield (
                f"  grows like {growth['along']}^{growth['exponent']:.2f}, expected "
                f"{growth['expected']:g}{peer} ({growth['sizes'][0]} to {growth['sizes'][-1]})"
            )
        for name, values in row.get("values", {}).items():
            yield f"  {name}: {values}"


def comparison(new: dict, old: dict) -> Iterator[str]:
    """Processor seconds of now over those of then, row by row."""
    for name in sorted({*new["environment"], *old["environment"]}):
        then, now = (run["environment"].get(name) for run in (old, new))
        if then != now:
            yield f"other {name}: {then} then, {now} now"
    before = {row["name"]: row["ours"]["cpu"] for row in old["rows"]}
    here = {row["name"] for row in new["rows"]}
    for row in new["rows"]:
        name, now = row["name"], row["ours"]["cpu"]
        if name not in before:
            yield f"   new  {name}"
            continue
        ratio = now / before[name]
        sign = "slower" if ratio > _NOTICEABLE else "faster" if ratio < 1 / _NOTICEABLE else ""
        yield f"{ratio:6.2f}  {name}{f'  ({sign})' if sign else ''}"
    for name in before:
        if name not in here:
            yield f"  gone  {name}"


def read(path: Path) -> dict:
    """The file of an earlier run.

    Raises:
        ValueError: no such file, or one of something else.
    """
    try:
        content = json.loads(path.read_text())
        return {"environment": content["environment"], "rows": content["rows"]}
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected the JSON file of an earlier run ({error})") from None


def draw(content: dict, path: Path) -> None:
    """Ratios to peers as bars, and beside them in a file of its own how cost grows."""
    ratios = [
        (f"{row['name']}  |  {peer}", found["ratio"])
        for row in content["rows"]
        for peer, found in row["peers"].items()
    ]
    growths = [row["growth"] for row in content["rows"] if "growth" in row]
    path.parent.mkdir(parents=True, exist_ok=True)
    if ratios:
        _draw_ratios(ratios, path)
    if growths:
        _draw_growth(growths, path.with_name(f"{path.stem}_growth{path.suffix}"))


def _draw_ratios(ratios: list[tuple[str, float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(
        figsize=(11, max(2.0, 0.19 * len(ratios) + 0.8)), layout="constrained"
    )
    values = [ratio for _, ratio in ratios]
    axis.barh(range(len(ratios)), values, color=["C0" if v <= 1 else "C1" for v in values])
    axis.set_yticks(range(len(ratios)), [name for name, _ in ratios], fontsize=7)
    axis.set_ylim(len(ratios) - 0.4, -0.6)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xlabel("our processor time / the peer's")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_growth(growths: list[dict], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for place, growth in enumerate(growths):
        label = (
            f"{growth['of']}: {growth['along']}^{growth['exponent']:.2f} ({growth['expected']:g})"
        )
        axis.loglog(growth["sizes"], growth["cpu"], "o-", color=f"C{place}", label=label)
    axis.set_xlabel("size")
    axis.set_ylabel("processor seconds")
    figure.legend(fontsize=8, title="fitted exponent (expected)", loc="outside right upper")
    figure.savefig(path, dpi=110)
    plt.close(figure)
