"""The public API: names, explicit keywords, and types that reach those who install the package."""

import ast
import inspect
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import latte_cli
from latte_cli.estimator import estimate_each, estimate_one

ROOT = Path(__file__).parents[1]
FUNCTIONS = [
    latte_cli.estimate,
    latte_cli.load,
    latte_cli.optimize,
    latte_cli.optimization_of,
    estimate_one,
    estimate_each,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_public_function_names_its_keywords_and_their_types(function):
    parameters = inspect.signature(function).parameters.values()
    assert not [one.name for one in parameters if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    assert not [one.name for one in parameters if one.annotation is one.empty]


def defaults(function):
    """The keywords of a function with their defaults; what hears of progress hears nothing."""
    keywords = (one for one in inspect.signature(function).parameters.values() if one.kind is one.KEYWORD_ONLY)
    return {one.name: None if callable(one.default) else one.default for one in keywords}


@pytest.mark.parametrize(("outer", "inner"), [(latte_cli.estimate, estimate_one), (estimate_one, estimate_each)])
def test_what_is_passed_on_has_the_same_default_at_each_step(outer, inner):
    own, further = defaults(outer), defaults(inner)
    assert further.keys() - own.keys() <= {"strategies", "limits", "kept", "replicated", "rough"}
    assert {name: own[name] for name in own if name in further} == {
        name: further[name] for name in own if name in further
    }


def test_type_checkers_see_the_names_that_are_there_at_run_time():
    stub = ast.parse((ROOT / "latte_cli/__init__.pyi").read_text())
    homes = {name.name: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert homes.keys() | {"__version__"} == set(latte_cli.__all__)
    assert all(getattr(latte_cli, name).__module__.startswith(home) for name, home in homes.items())


def test_the_wheel_says_that_it_is_typed():
    shipped = {each.distribution_path for each in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {"latte_cli/py.typed", "latte_cli/__init__.pyi"} <= shipped
