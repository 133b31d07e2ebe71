"""neural-tangents 0.6.5 on a jax that its authors never saw.

The package was archived in 2025: it asks for TensorFlow, which only its ``experimental`` part uses,
and imports names that jax has moved or dropped since.  ``load`` lends jax those names while the
package is imported and takes them back; what the package looks up later it finds in stand-ins that
live in its own module, so that jax is left as it was.  Three private functions of its empirical
NTK reach deep into jax and are written anew with public functions.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import ad
from scipy.linalg import eigvalsh

VERSION = "0.6.5"
# a minor version of jax is added here once the tests of this module pass with it
TRIED_JAX = ("0.10",)
INSTALL = "make neural-tangents, or pip install --no-deps neural-tangents==0.6.5 frozendict"


@functools.cache
def load() -> types.ModuleType:
    """Return the module ``neural_tangents``, imported and patched at the first call.

    Raises:
        ImportError: the package is missing or not 0.6.5, or jax is one it was not tried with.
    """
    _check_versions()
    # its own __init__ asks for the part that needs TensorFlow
    empty = types.ModuleType("neural_tangents.experimental")
    util = types.ModuleType("jax.util")
    vars(util).update(safe_map=_safe_map, safe_zip=functools.partial(zip, strict=True))
    moved = ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")
    # an entry of its tables of rules, for a primitive that no trace holds any more
    dropped = {"zeros_like_p": core.Primitive("zeros_like")}
    with (
        _lent(vars(jax.core), {name: getattr(core, name) for name in moved}),
        _lent(vars(ad), dropped),
        _lent(sys.modules, {part.__name__: part for part in (empty, util)}),
        warnings.catch_warnings(action="ignore"),
    ):
        module = importlib.import_module("neural_tangents")
    empirical, predict = (
        sys.modules[f"neural_tangents._src.{x}"] for x in ("empirical", "predict")
    )
    _patch_empirical(vars(empirical))
    # scipy renamed the option by which max_learning_rate asks for the last eigenvalue
    top = types.SimpleNamespace(eigvalsh=lambda a, eigvals: eigvalsh(a, subset_by_index=eigvals))
    vars(predict).update(sp=types.SimpleNamespace(linalg=top))
    return module


def _check_versions() -> None:
    """Raise ImportError unless both packages are here, in versions that were tried together."""
    try:
        found = importlib.metadata.version("neural-tangents")
        importlib.metadata.version("frozendict")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"metricflow: {error.name} is not installed; run {INSTALL}") from None
    if found != VERSION:
        raise ImportError(
            f"metricflow: neural-tangents {found} was not tried, only {VERSION}; run {INSTALL}"
        )
    if ".".join(jax.__version__.split(".")[:2]) not in TRIED_JAX:
        raise ImportError(
            f"metricflow: neural-tangents was not tried with jax {jax.__version__}, "
            f"only with {', '.join(TRIED_JAX)}.x; metricflow itself works without it"
        )


@contextlib.contextmanager
def _lent(owner: dict[str, Any], names: dict[str, Any]) -> Iterator[None]:
    """Put those names into ``owner`` that it lacks, and take them back afterwards."""
    missing = {name: value for name, value in names.items() if name not in owner}
    owner.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del owner[name]


def _safe_map(function: Callable[..., Any], *lists: Any) -> list[Any]:
    return [function(*items) for items in zip(*lists, strict=True)]


def _patch_empirical(module: dict[str, Any]) -> None:
    """Give the empirical NTK's module what it looks up when it is called."""
    # jax.numpy now wants arrays where the package asks about descriptions of them, and the reverse
    shape = {"shape": np.shape, "size": np.size, "dtype": jnp.result_type}
    module.update(
        jnp=types.SimpleNamespace(**{**vars(jnp), **shape}),
        core=types.SimpleNamespace(ShapedArray=jax.core.ShapedArray, DShapedArray=None),
        ad=types.SimpleNamespace(
            add_tangents=ad.add_tangents,
            is_undefined_primal=ad.is_undefined_primal,
            primitive_jvps=ad.primitive_jvps,
            config=types.SimpleNamespace(jax_enable_checks=False),
            # names of steps in profiles: jax keeps them private
            source_info_util=types.SimpleNamespace(transform_name_stack=contextlib.nullcontext),
        ),
        print=lambda *_: None,  # AUTO tells its flops to standard output
        _eqn_vjp_fn=_equation_pullback,
        _get_flops=_flops,
        _get_primals_out_and_pullback=functools.partial(
            _values_and_pullback, module["_backward_pass"]
        ),
    )


def _flops(function: Callable[..., Any], optimize: bool, *args: Any, **kwargs: Any) -> float:
    """Floating-point operations of a function; 0 where the back end does not count them.

    AUTO takes the smallest number, and the first implementation that it asks about in a tie.
    """
    lowered = jax.jit(function).lower(*args, **kwargs)
    analysis: Any = (lowered.compile() if optimize else lowered).cost_analysis()
    return float((analysis or {}).get("flops", 0.0))


def _values_and_pullback(
    backward: Callable[..., Any],
    function: Callable[..., Any],
    mode: Any,
    j: bool,
    s: bool,
    fwd: Any,
    *primals: Any,
) -> tuple[Any, Callable[..., Any]]:
    """The values of a function, and its linearisation read backwards by the package's rules."""
    # the rules know no primitive that calls another, so nothing may hide behind jit
    with jax.disable_jit():
        values, linear = jax.linearize(function, *primals)
        closed = jax.make_jaxpr(linear)(*primals)
    unknown = [ad.UndefinedPrimal(v.aval) for v in closed.jaxpr.invars]
    rules = {"mode": mode, "_j_rules": j, "_s_rules": s, "_fwd": fwd}

    def pullback(*cotangents: Any) -> Any:
        flat = tuple(jax.tree.leaves(cotangents))
        found = backward(
            closed.jaxpr, consts=closed.consts, primals_in=unknown, cotangents_in=flat, **rules
        )
        return jax.tree.unflatten(jax.tree.structure(primals), found)

    return values, pullback


def _equation_pullback(equation: Any, cotangent: Any, *inputs: Any) -> Any:
    """Cotangents of the unknown inputs of one linear equation, None for its known ones."""
    if equation is None:  # stands for the identity
        return (cotangent,)
    unknown = [i for i, x in enumerate(inputs) if isinstance(x, ad.UndefinedPrimal)]
    if isinstance(cotangent, ad.Zero):
        return [None] * len(inputs)

    def apply(*tangents: Any) -> Any:
        known = dict(enumerate(inputs)) | dict(zip(unknown, tangents, strict=True))
        found = equation.primitive.bind(*known.values(), **equation.params)
        return found[0] if equation.primitive.multiple_results else found

    found = jax.linear_transpose(apply, *[inputs[i].aval for i in unknown])(cotangent)
    return [dict(zip(unknown, found, strict=True)).get(i) for i in range(len(inputs))]
