"""Manifolds and metrics by name on the command line: ``fermat:3``, ``dwork:3:0.5``, a file."""

from typing import Any

import jax

from metricflow import load_metric, records
from metricflow.geometry import Hypersurface, dwork, fermat, random_hypersurface

FORMS = "fermat:DIM, dwork:DIM:PSI or random:DIM:SEED"
STORED = f"a file, or one of {', '.join(records.names())}"


def parse_manifold(text: str) -> Hypersurface:
    """The hypersurface that a text such as ``dwork:3:0.5`` names.

    Raises:
        ValueError: another form, or a singular manifold.
    """
    family, *numbers = text.split(":")
    try:
        if family == "fermat" and len(numbers) == 1:
            return fermat(int(numbers[0]))
        if family == "dwork" and len(numbers) == 2:
            return dwork(int(numbers[0]), complex(numbers[1]))
        if family == "random" and len(numbers) == 2:
            return random_hypersurface(jax.random.key(int(numbers[1])), int(numbers[0]))
    except ValueError as error:
        raise ValueError(f"--manifold {text}: {error}") from None
    raise ValueError(f"--manifold: expected {FORMS}, got {text!r}")


def stored_metric(name: str) -> Any:
    """The metric in a file, or one that comes with the library."""
    return records.calabi_yau_metric(name) if name in records.names() else load_metric(name)
