"""Where oneDNN is: the copies that may be opened, best first."""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from latte_cli.backends.native.onednn.signatures import LIBRARIES
from latte_cli.errors import LatteError

VARIABLE = "LATTE_ONEDNN"
"""The environment variable that names a library file, or the folder that holds it, by its absolute path."""

PACKAGE = "onednn-cpu-gomp"
"""The package that brings a oneDNN which needs nothing but GNU's OpenMP."""

INSTALL_HINT = (
    f"`pip install {PACKAGE}` on x86, install your system's libdnnl elsewhere, or set `{VARIABLE}=` to where one is"
)
"""What to type where no copy can be opened."""

_FILE = re.compile(r"libdnnl\.so(\.\d+)*")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A copy of oneDNN: `file` is its path, or a name where the system's loader is to find it.

    `origin` says in a word or two how it was found.
    """

    file: str
    origin: str

    def __str__(self) -> str:
        return f"{self.file} ({self.origin})"


def find_copies(
    environment: Mapping[str, str] | None = None, path: Iterable[str] | None = None
) -> tuple[Candidate, ...]:
    """The copies of oneDNN worth trying, best first; where `LATTE_ONEDNN` is set, that one alone.

    `environment` and `path`, where packages are looked for, are this process's own by default. The copy inside torch
    is not one of them: it exports nothing. Raises LatteError where `LATTE_ONEDNN` names no copy.
    """
    environment = os.environ if environment is None else environment
    override = environment.get(VARIABLE)
    if override:
        return (_override(Path(override)),)
    found: dict[str, Candidate] = {}
    for candidate in _everywhere(environment, list(sys.path if path is None else path)):
        real = str(Path(candidate.file).resolve()) if "/" in candidate.file else candidate.file
        found.setdefault(real, candidate)
    return tuple(found.values())


def _override(place: Path) -> Candidate:
    if not place.is_absolute():
        raise LatteError(f"{VARIABLE} is `{place}`, which is no absolute path", hint=f"try `{place.absolute()}`")
    if not place.exists():
        raise LatteError(f"{VARIABLE} is `{place}`, which does not exist", hint=f"`unset {VARIABLE}`, or correct it")
    file = next(_in(place), None) if place.is_dir() else place
    if file is None:
        names = " or ".join(f"`{name}`" for name in LIBRARIES.values())
        raise LatteError(f"{VARIABLE} is `{place}`, but there is no {names} there", hint=INSTALL_HINT)
    return Candidate(file=str(file), origin=VARIABLE)


def _everywhere(environment: Mapping[str, str], path: list[str]) -> Iterator[Candidate]:
    yield from _packaged_copies(path)
    if environment.get("CONDA_PREFIX"):
        folder = Path(environment["CONDA_PREFIX"], "lib")
        yield from (Candidate(file=str(file), origin="CONDA_PREFIX") for file in _in(folder))
    for name in LIBRARIES.values():
        yield Candidate(file=name, origin="system")


def _packaged_copies(path: list[str]) -> Iterator[Candidate]:
    # The library lies with the environment's programs, outside the package's folder: its own list says where.
    for distribution in distributions(name=PACKAGE, path=path):
        files = [Path(str(file.locate())).resolve() for file in distribution.files or () if _FILE.fullmatch(file.name)]
        folders = dict.fromkeys(file.parent for file in files)
        for folder in folders:
            yield from (Candidate(file=str(file), origin=f"package {PACKAGE}") for file in _in(folder))


def _in(folder: Path) -> Iterator[Path]:
    return (folder / name for name in LIBRARIES.values() if (folder / name).is_file())
