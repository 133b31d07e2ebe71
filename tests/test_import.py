import os
import subprocess
import sys

import pytest

from metricflow._jax_version import REFUSED, refuse_broken_jax

# what takes long to load and few programs need, is loaded by the functions that need it
LATER = {
    "bayes_opt",
    "matplotlib",
    "metricflow.data",
    "metricflow.plotting",
    "metricflow.training",
    "neural_tangents",
    "orbax",
    "pandas",
    "PIL",
    "sklearn",
    "tensorstore",
    "tqdm",
}


def test_import_is_silent_and_changes_nothing():
    code = (
        "import jax\nbefore = dict(jax.config.values)\n"
        # modules of jax that others load may add settings; none that was there changes
        "import metricflow\nafter = dict(jax.config.values)\n"
        "assert {name: after[name] for name in before} == before\n"
        "from jax._src import xla_bridge\nassert not xla_bridge._backends, 'a backend runs'\n"
        f"import sys\nassert not {LATER} & set(sys.modules), {LATER} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_every_name_of_the_catalogue_exists():
    import metricflow

    for module in (metricflow, metricflow.geometry, metricflow.kernels, metricflow.flows):
        for name in module.__all__:
            assert hasattr(module, name), name
        assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize("version", REFUSED)
def test_a_jax_that_miscompiles_is_refused(version):
    with pytest.raises(ImportError, match=f"jax {version}.*install another version"):
        refuse_broken_jax(version)
    refuse_broken_jax("0.10.1")


SUM = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
rows, m = np.ones((16_385, 128)), np.ones((128, 128))
compiled = jax.jit(jax.vmap(lambda r: ((m @ r) ** 2).sum()))
# 0.10.2 returned 266342400 in place of 268435456 for 16,384 of these rows added up
expected = 128 * 128.0**2
assert np.all(np.asarray(compiled(rows)) == expected)
assert float(compiled(rows)[:128].sum()) == 268435456
"""


def test_this_jax_computes_the_sum_that_0_10_2_gets_wrong():
    """In a process of its own: with all optimisations, of which the suite leaves out most."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-c", SUM], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
