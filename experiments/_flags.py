"""The flags of experiments: a parser that answers in one line, and what flags take."""

import argparse
import math
from pathlib import Path
from typing import Any, NoReturn


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _at_least(1, _whole_number(text))


def whole(text: str) -> int:
    """A whole number of at least 0, such as a seed."""
    return _at_least(0, _whole_number(text))


def amount(text: str) -> float:
    """A finite number of at least 0."""
    return _at_least(0, number(text))


def number(text: str) -> float:
    """A finite number."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return found


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def _at_least(least: int, found: Any) -> Any:
    if found < least:
        raise argparse.ArgumentTypeError(f"expected at least {least}, got {found}")
    return found


# what --help calls the values
METAVARS: dict[Any, str] = {
    count: "N",
    whole: "N",
    amount: "X",
    number: "X",
    Path: "PATH",
}


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Short; with defaults where there are any: a flag left out leaves the preset as it is."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return METAVARS.get(action.type, "NAME")

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Whose errors are ValueErrors of one line.

    Args:
        prog: the command.
        about: a docstring, of which the first line is shown.
        usage: how it is called, if not all flags are to be named.
    """

    def __init__(self, prog: str, about: str, usage: str | None = None) -> None:
        super().__init__(prog, usage, about.splitlines()[0], formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong; whoever parses prints it."""
        raise ValueError(f"{message.removeprefix('argument ')}; --help lists the flags")
