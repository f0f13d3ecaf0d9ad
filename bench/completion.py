"""What a shell offers where a recipe or a workload is to be named: what ships, and files of one's own.

Loaded with every command, so what knows the names is loaded only when somebody asks.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable

import click


def matrix(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For a list by commas, in which whole ladders may stand."""
    from bench import recipe

    listed, comma, begun = incomplete.rpartition(",")
    names = [*recipe.LADDERS, *(each.name for each in recipe.shipped())]
    return [listed + comma + name for name in _begun(names, begun)]


def one_recipe(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For a single recipe."""
    from bench import recipe

    return _begun((each.name for each in recipe.shipped()), incomplete)


def one_workload(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For a workload."""
    from bench import workload

    return _begun(workload.shipped(), incomplete)


def _begun(names: Iterable[str], begun: str) -> list[str]:
    files = sorted(glob.glob(f"{glob.escape(begun)}*.toml"))
    return [name for name in (*names, *files) if name.startswith(begun)]
