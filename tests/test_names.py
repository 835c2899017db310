"""The package's names: functions are verbs or nouns, and each public name has one meaning."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "latte_cli"

REBUILT = ("network.onnx", "network.torch_program", "network.module")
"""Readers of models: operators' own names (`flatten`, `embedding`), and what they become."""

IRREGULAR = re.compile(
    "bound|broken|built|chosen|done|drawn|fit|found|frozen|given|gone|held|hidden|kept|known|left|lent|lost|made|meant|"
    "met|paid|said|seen|sent|shown|sold|spent|split|spoken|spread|taken|thrown|told|understood|woven|written"
)
OTHER_WORDS = re.compile("everything|mapping|meaning|need|nothing|ranking|seed|spread")
"""Nouns and verbs that look like participles."""

PARALLEL = {
    "native": "cuDNN and oneDNN are bound alike: a module of one is used in place of the other's",
    "cpu cuda": "each kind of device answers what `Opener` asks, in modules of the same names",
    "cli": "a command's function bears the command's name",
}
CHILDREN = {"answer"}  # what a child process answers, in each module that asks one
ALIASES = {"Array", "Arrays", "Indices", "Kept", "Sizes"}  # of NumPy's types and tuples, near where they are used


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith(REBUILT):
            yield name, ast.parse(path.read_text("utf-8"))


def definitions(tree: ast.Module) -> Iterator[str]:
    """Public functions, classes and aliases of types at the level of the module."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = node.name
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            name = ast.unparse(node.target)
        else:
            continue
        if not name.startswith("_"):
            yield name


def is_participle(name: str) -> bool:
    word = name.strip("_")
    looks_like_one = IRREGULAR.fullmatch(word) or word.endswith(("ed", "ing"))
    return "_" not in word and bool(looks_like_one) and not OTHER_WORDS.fullmatch(word)


def parallel(homes: list[str]) -> bool:
    """Whether these modules may share a name: see PARALLEL."""
    rest = [home for home in homes if home.split(".")[0] != "cli"]
    packages = {tuple(home.split(".")[:3]) for home in rest}
    twins = [{("backends", "native", "cudnn"), ("backends", "native", "onednn")}]
    kinds = {home.split(".")[1] for home in rest if home.startswith("backends.")}
    alike = packages in twins or (len(kinds) == len(rest) and kinds == {"cpu", "cuda"})
    return len(rest) < 2 or alike


def functions(tree: ast.Module) -> Iterator[str]:
    """Functions and methods; properties may be adjectives (`queued`)."""
    for body in (tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))):
        for node in body:
            kind = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            if kind and not any("property" in ast.unparse(each) for each in node.decorator_list):
                yield node.name


def test_no_function_is_a_bare_participle():
    found = [f"{module}: {name}" for module, tree in modules() for name in functions(tree) if is_participle(name)]
    assert not found


def test_a_public_name_has_one_home():
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for module, tree in modules():
        for name in definitions(tree):
            homes[name].append(module)
    shared = {name: found for name, found in homes.items() if len(found) > 1 and not parallel(found)}
    assert not {name: found for name, found in shared.items() if name not in CHILDREN | ALIASES}
