"""What Python lacks on Windows, from the types of its standard library that mypy brings, and processes without it."""

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

_MODULES = ("os", "select", "signal", "time", "mmap", "socket", "shutil")
_NEEDED = {"posix", "_posixsubprocess", "_posixshmem"}  # Python's own modules are made of these on Linux
_LIBRARIES = (
    *("numpy", "onnx", "pyarrow.dataset", "pyarrow.fs", "pyarrow.parquet", "scipy.optimize", "typer.main", "xgboost"),
    *(
        "yaml",
        "jinja2",
        "jsonschema",
        "matplotlib.figure",
        "rich.console",
        "rich.progress",
        "platformdirs",
        "PIL.Image",
    ),
)

_PROGRAM = """
import contextlib, importlib, json, os, sys, traceback
names, modules, libraries, commands = json.load(sys.stdin)
for name in libraries:
    importlib.import_module(name)
assert not [name for name in sys.modules if name.startswith("latte_cli")]
fork, wait, dup, end = os.fork, os.waitpid, os.dup2, os._exit

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in modules:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Refuse())
for module, missing in names.items():
    for name in missing:
        vars(importlib.import_module(module)).pop(name, None)
from latte_cli.__main__ import main

def run(words, out, err):
    for number, path in ((1, out), (2, err)):
        dup(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["latte", *words]
    try:
        main()
    except SystemExit as done:
        return done.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
    return 1

codes = []
for number, words in enumerate(commands):
    if not (child := fork()):
        end(run(words, f".out{number}", f".err{number}"))
    codes.append(wait(child, 0)[1] >> 8)
print(json.dumps(codes))
"""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def missing_names() -> dict[str, list[str]]:
    """The names of Python's modules that Linux has and Windows has not."""
    return {module: sorted(_names(module, "linux") - _names(module, "win32")) for module in _MODULES}


def missing_modules() -> list[str]:
    """Python's modules that define something on Linux and nothing on Windows."""
    modules = {path.stem for path in _stubs().glob("*.pyi")} - _NEEDED
    return sorted(name for name in modules if _names(name, "linux") and not _names(name, "win32"))


def run_without(commands: Sequence[Sequence[object]], *, folder: Path) -> list[Done]:
    """What becomes of each `latte` command, one after the other, in a process without what Windows has not.

    Libraries are imported before, since theirs for Linux need what Windows has not; LATTE itself comes after.
    """
    words = [list(map(str, command)) for command in commands]
    question = json.dumps([missing_names(), missing_modules(), _LIBRARIES, words])
    program = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(program, cwd=folder, input=question, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)
    said = [[(folder / f".{kind}{number}").read_text() for kind in ("out", "err")] for number in range(len(codes))]
    return [Done(code=code, out=out, err=err) for code, (out, err) in zip(codes, said, strict=True)]


def _stubs() -> Path:
    found = importlib.util.find_spec("mypy")
    assert found
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "typeshed" / "stdlib"


def _names(module: str, platform: str) -> set[str]:
    """The public names of a module on a platform."""
    file = _stubs() / f"{module}.pyi"
    file = file if file.exists() else _stubs() / module / "__init__.pyi"
    seen = {"sys": SimpleNamespace(platform=platform, version_info=sys.version_info[:3])}
    return {name for name in _defined(ast.parse(file.read_text()).body, seen) if not name.startswith("_")}


def _defined(body: Iterable[ast.stmt], seen: dict[str, SimpleNamespace]) -> Iterator[str]:
    """The names that statements of a stub define; conditions are of the platform and the version alone."""
    for statement in body:
        match statement:
            case ast.If():
                holds = eval(compile(ast.Expression(statement.test), "stub", "eval"), dict(seen))
                yield from _defined(statement.body if holds else statement.orelse, seen)
            case ast.FunctionDef() | ast.ClassDef() | ast.AsyncFunctionDef():
                yield statement.name
            case ast.Assign():
                yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.ImportFrom():
                yield from (alias.name for alias in statement.names if alias.asname == alias.name)
            case _:
                pass
