"""Registered dataclasses: what is a leaf, and that no two of them pass for each other."""

import ast
import dataclasses
import importlib
import itertools
import pkgutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import metricflow
from metricflow._pytree import register_dataclass

ROOT = Path(metricflow.__file__).parent


def registered() -> list[type]:
    """Every class of the library that is decorated as a pytree."""
    found = []
    for module in pkgutil.walk_packages(metricflow.__path__, "metricflow."):
        tree = ast.parse(Path(module.module_finder.find_spec(module.name).origin).read_text())
        for node in tree.body:
            marks = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
            if isinstance(node, ast.ClassDef) and any("register" in m for m in marks):
                found.append(getattr(importlib.import_module(module.name), node.name))
    return found


def bare(cls: type) -> object:
    """An instance with the same value in every field, unchecked."""
    instance = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(instance, field.name, 1)
    return instance


def test_no_two_classes_have_one_tree_structure():
    classes = registered()
    assert {"Gaussian", "Exponential", "Delta", "KernelMetric", "Hypersurface"} <= {
        cls.__name__ for cls in classes
    }
    structures = [jax.tree.structure(bare(cls)) for cls in classes]
    for (one, first), (other, second) in itertools.combinations(
        zip(classes, structures, strict=True), 2
    ):
        assert first != second, (one, other)


def test_only_one_way_to_register_is_used():
    for path in ROOT.rglob("*.py"):
        if path.name != "_pytree.py":
            assert "tree_util.register" not in path.read_text(), path


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Pair:
    first: object
    name: str = dataclasses.field(metadata={"static": True})
    second: object = 0.0

    def __post_init__(self):
        if self.first is None:
            raise ValueError


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Twin:
    first: object
    name: str = dataclasses.field(metadata={"static": True})
    second: object = 0.0


def test_leaves_and_static_fields():
    pair = Pair(jnp.ones(2), "a", {"x": 3})
    leaves, structure = jax.tree.flatten(pair)
    assert len(leaves) == 2
    assert structure == jax.tree.structure(Pair(0, "a", {"x": 1}))
    assert structure != jax.tree.structure(Pair(0, "b", {"x": 1}))
    assert structure != jax.tree.structure(Twin(0, "a", {"x": 1}))
    doubled = jax.tree.map(lambda v: 2 * v, pair)
    assert (doubled.name, doubled.second) == ("a", {"x": 6})
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(pair)]
    assert paths == [".first", ".second['x']"]


def test_rebuilding_does_not_check_and_building_does():
    assert jax.tree.map(lambda v: None, Pair(1, "a")).first is None
    with pytest.raises(ValueError):  # noqa: PT011
        Pair(None, "a")


def test_compiled_code_is_not_shared_between_classes():
    @jax.jit
    def kind(tree):
        return jnp.asarray(isinstance(tree, Pair))

    assert bool(kind(Pair(1.0, "a"))) is True
    assert bool(kind(Twin(1.0, "a"))) is False
    assert kind._cache_size() == 2
