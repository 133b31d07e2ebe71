"""Set up jax before anything imports it: eight fake devices, float64, types checked at run time."""

import gc
import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

# Most programs here run once on a few points, so that optimising them costs more than it gains.
# What the environment says comes later and wins: `make test-heavy` has the compiler of users.
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = " ".join(
    (
        QUICK_TO_COMPILE,
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
    )
)
# with fewer threads than that they may wait for each other
os.environ["NPROC"] = "16"
# the workers of the suite share the processors already
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jaxtyping
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
with install_import_hook("metricflow", "beartype.beartype"):
    import metricflow  # noqa: F401

import numpy as np
import pytest
from hypothesis import settings

from metricflow import geometry

# Nothing imported is garbage: the collector need not look at it again while programs are traced.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 20)

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("fixed")


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def quintic() -> geometry.Hypersurface:
    return geometry.fermat(3)


@pytest.fixture(scope="session")
def quintic_points(quintic: geometry.Hypersurface) -> geometry.Points:
    return geometry.sample_points(jax.random.key(11), quintic, 500)


@pytest.fixture(scope="session")
def asymmetric_cubic() -> geometry.Hypersurface:
    exponents = [[3, 0, 0], [0, 3, 0], [0, 0, 3], [2, 1, 0]]
    return geometry.hypersurface(exponents, [1, 1, 1, 0.3 + 0.2j])


MEMORY = 2 * 1024**3  # bytes of one worker


def resident() -> float:
    """Bytes of memory that this process has now; infinite where the system does not say."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * mmap.PAGESIZE if pages.exists() else math.inf


@pytest.fixture(autouse=True, scope="module")
def compiled_code_is_dropped() -> Iterator[None]:
    """The programs of a whole suite fill the memory of a small machine."""
    yield
    if resident() > MEMORY:
        jax.clear_caches()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def as_user() -> Iterator[None]:
    """Calls without the run-time type checks of the suite: what a user's mistake meets."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks first: minutes in one file, which at the end would keep one worker waiting."""
    items.sort(key=lambda item: "test_notebooks" not in item.nodeid)
