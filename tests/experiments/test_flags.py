"""Types of the flags: what they take, and what they say of the rest."""

import argparse

import pytest

from experiments import _flags


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (_flags.count, "1", 1),
        (_flags.whole, "0", 0),
        (_flags.amount, "0", 0.0),
        (_flags.amount, "1e-3", 0.001),
        (_flags.number, "-20.5", -20.5),
    ],
)
def test_what_they_take(kind, text, value):
    found = kind(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (_flags.count, "0", "expected at least 1, got 0"),
        (_flags.whole, "-1", "expected at least 0, got -1"),
        (_flags.whole, "1.5", "expected a whole number, got '1.5'"),
        (_flags.amount, "-0.5", "expected at least 0, got -0.5"),
        (_flags.amount, "nan", "expected a finite number, got 'nan'"),
        (_flags.number, "inf", "expected a finite number, got 'inf'"),
        (_flags.number, "wide", "expected a finite number, got 'wide'"),
    ],
)
def test_what_they_refuse(kind, text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        kind(text)


def test_help_names_each():
    kinds = {_flags.count, _flags.whole, _flags.amount, _flags.number}
    assert kinds <= set(_flags.METAVARS)
