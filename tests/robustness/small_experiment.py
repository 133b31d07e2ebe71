"""An experiment of three stages that computes next to nothing, run as all others are."""

import argparse
import dataclasses
import math

from experiments import _run


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 5
    scale: float = 1.0


PRESETS = {"default": Config()}


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--scale", type=float)


def configure(arguments: argparse.Namespace) -> Config:
    return _run.configured(arguments, PRESETS)


def run(config: Config, record: _run.Record) -> dict:
    rows = [
        record.stage(f"stage {place}", lambda place=place: _row(config, place))
        for place in range(3)
    ]
    return {"rows": [row["values"] for row in rows]}


def _row(config: Config, place: int) -> dict:
    return {"values": [config.scale * math.sin(place + step) for step in range(config.steps)]}


def draw(result: dict, folder) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(1, 1))
    for row in result["rows"]:
        axis.plot(row)
    _run.save_figure(figure, folder / "rows.png")


def main(argv=None) -> int:
    import sys

    return _run.launch(argv, sys.modules[__name__])
