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
    """Ratios to peers as bars, and how cost grows."""
    import matplotlib.pyplot as plt

    ratios = [
        (f"{row['name']}  |  {peer}", found["ratio"])
        for row in content["rows"]
        for peer, found in row["peers"].items()
    ]
    growths = [row["growth"] for row in content["rows"] if "growth" in row]
    height = max(3.0, 0.24 * len(ratios) + 1.2)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(15, height), layout="constrained", width_ratios=(1.2, 1)
    )
    values = [ratio for _, ratio in ratios]
    left.barh(range(len(ratios)), values, color=["C0" if v <= 1 else "C1" for v in values])
    left.set_yticks(range(len(ratios)), [name for name, _ in ratios], fontsize=7)
    left.invert_yaxis()
    left.axvline(1, color="black", linewidth=0.8)
    left.set_xscale("log")
    left.set_xlabel("our processor time / the peer's")
    for place, growth in enumerate(growths):
        label = (
            f"{growth['of']}: {growth['along']}^{growth['exponent']:.2f} ({growth['expected']:g})"
        )
        right.loglog(growth["sizes"], growth["cpu"], "o-", color=f"C{place}", label=label)
    right.set_xlabel("size")
    right.set_ylabel("processor seconds")
    if growths:
        right.legend(fontsize=8, title="fitted exponent (expected)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
