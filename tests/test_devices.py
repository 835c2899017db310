"""Kinds of device are values: nothing but their own packages asks which one it has."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import latte_cli
from latte_cli.devices import AUTO, CPU, CUDA, KINDS, Spec, kind_named, kind_of_torch, spec_named
from latte_cli.errors import LatteError

PACKAGE = Path(latte_cli.__file__).parent
OWN = (PACKAGE / "devices.py", PACKAGE / "backends/cpu", PACKAGE / "backends/cuda")
CONSTANTS = {name for name, value in vars(latte_cli.devices).items() if value in KINDS.values()}


def branches(tree: ast.AST) -> Iterator[ast.AST]:
    """The places at which code takes another way for another kind of device."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare():
                if any(map(_names_a_kind, (node.left, *node.comparators))):
                    yield node
            case ast.MatchValue(value=value):
                if _names_a_kind(value):
                    yield node
            case ast.Dict(keys=keys):
                if any(key and _names_a_kind(key) for key in keys):
                    yield node
            case ast.Call(func=ast.Attribute(attr="startswith" | "endswith"), args=[first]):
                if _names_a_kind(first):
                    yield node


def _names_a_kind(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=str(text)):
            return text.partition(":")[0] in KINDS
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in CONSTANTS
        case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
            return any(map(_names_a_kind, elements))
    return False


FILES = [path for path in PACKAGE.rglob("*.py") if not any(path.is_relative_to(own) for own in OWN)]


def test_nothing_branches_on_a_kind_outside_its_own_package() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"  # type: ignore[attr-defined]
        for path in FILES
        for node in branches(ast.parse(path.read_text()))
    ]
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        'device.kind == "cuda"',
        'spec != "cuda:0"',
        'place.type in ("cpu", "xpu")',
        "kind is CPU",
        "devices.CUDA == kind",
        'run.device.startswith("cuda")',
        'LIMITS = {"cpu": 1, "cuda": 2}',
        'match kind:\n    case "rocm":\n        pass',
    ],
)
def test_a_branch_on_a_kind_is_found(code: str) -> None:
    assert list(branches(ast.parse(code)))


def test_words_that_name_no_kind_are_no_branches() -> None:
    assert not list(branches(ast.parse('layer.kind == "convolution" or text.startswith("cu") or {"cudnn": 1}')))


def test_an_unknown_kind_is_loud() -> None:
    with pytest.raises(LatteError, match="unknown kind of device `tpu`"):
        kind_named("tpu")
    with pytest.raises(LatteError, match="unknown device of torch `meta`"):
        kind_of_torch("meta")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        (AUTO, Spec(kind=None)),
        ("cpu", Spec(kind=CPU)),
        ("cuda", Spec(kind=CUDA)),
        ("cuda:3", Spec(kind=CUDA, index=3)),
        ("lab-nvidia-h200", None),
    ],
)
def test_a_users_word_is_a_device_of_this_machine_or_a_name(text: str, spec: Spec | None) -> None:
    assert spec_named(text) == spec


@pytest.mark.parametrize("text", ["cpu:0", "cuda:", "cuda:x", "cuda:-1"])
def test_an_index_that_a_kind_cannot_have_is_refused(text: str) -> None:
    with pytest.raises(LatteError, match="unknown device"):
        spec_named(text)


def test_kinds_are_the_same_by_name_across_processes() -> None:
    import pickle

    assert pickle.loads(pickle.dumps(CUDA)) == CUDA != CPU
    assert len({CPU, CUDA, pickle.loads(pickle.dumps(CPU))}) == 2
