"""The package with a kind of layer and a precision made up in the middle of those that there are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import latte_cli

PACKAGE = Path(latte_cli.__file__).parent
CHANGES = {
    "layers/__init__.py": (
        "\nLAYERS: tuple[type[Layer], ...] = (\n    Convolution,\n",
        """
from dataclasses import dataclass as _dataclass


@_dataclass(frozen=True, kw_only=True)
class _MadeUp(Other):
    kind = "made_up"
    code = 99


LAYERS: tuple[type[Layer], ...] = (
    Convolution,
    _MadeUp,
""",
    ),
    "precisions.py": (
        '    TF32 = "tf32"\n',
        '    MADE_UP = "made_up"\n    TF32 = "tf32"\n',
    ),
}
RECORDS = (
    ("_TYPE_BYTES = {", '_64 = "float64"\n_TYPE_BYTES = {_64: 8, '),
    (
        "_ARITHMETICS = {",
        '_ARITHMETICS = {Precision.MADE_UP: Arithmetic(code=99, activations="float64", weights="float64"),',
    ),
)


def made_up_package(folder: Path) -> Path:
    """A copy of the package in `folder` with both; returns `folder`."""
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in CHANGES.items():
        _replace(folder / PACKAGE.name / name, old, new)
    for old, new in RECORDS:
        _replace(folder / PACKAGE.name / "precisions.py", old, new)
    return folder


def printed(folder: Path, code: str) -> str:
    """What `code` prints with the package in `folder`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(Path(__file__).parent)))}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))
