"""Where cuDNN is: the copies that may be opened, best first."""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from latte_cli.backends.native.cudnn.signatures import LIBRARIES
from latte_cli.backends.native.library import loaded_path
from latte_cli.errors import LatteError

VARIABLE = "LATTE_CUDNN"
"""The environment variable that names a library file, or the folder that holds it, by its absolute path."""

INSTALL_HINT = f"`pip install nvidia-cudnn-cu13`, or set `{VARIABLE}=` to its folder; `latte doctor` says what is there"
"""What to type where no copy can be opened."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A copy of cuDNN `major`: `folder` holds its libraries, None leaves them to the system's loader.

    `origin` says in a word or two how it was found.
    """

    major: int
    folder: Path | None
    origin: str

    def file(self, library: str) -> str:
        """What to open for `library`, a file name: its path, or the name where the loader is to find it."""
        return str(self.folder / library) if self.folder else library

    def __str__(self) -> str:
        return f"{self.file(LIBRARIES[self.major][0])} ({self.origin})"


def find_copies(
    environment: Mapping[str, str] | None = None, path: Iterable[str] | None = None, root: Path = Path("/")
) -> tuple[Candidate, ...]:
    """The copies of cuDNN worth trying, best first; where `LATTE_CUDNN` is set, that one alone.

    `environment` and `path` are this process's own by default; CUDA and the Jetson's libraries are looked for under
    `root`. Raises LatteError where `LATTE_CUDNN` names no copy.
    """
    environment = os.environ if environment is None else environment
    override = environment.get(VARIABLE)
    if override:
        return tuple(_override(Path(override)))
    found: dict[tuple[int, Path | None], Candidate] = {}
    for candidate in _everywhere(environment, tuple(sys.path if path is None else path), root):
        real = candidate.folder.resolve() if candidate.folder else None
        found.setdefault((candidate.major, real), candidate)
    return tuple(found.values())


def _override(place: Path) -> Iterator[Candidate]:
    if not place.is_absolute():
        raise LatteError(f"{VARIABLE} is `{place}`, which is no absolute path", hint=f"try `{place.absolute()}`")
    if not place.exists():
        raise LatteError(f"{VARIABLE} is `{place}`, which does not exist", hint=f"`unset {VARIABLE}`, or correct it")
    named = re.search(r"\.so\.(\d+)", place.name)
    folder = place if place.is_dir() else place.parent
    fitting = [found for found in _in(folder, VARIABLE) if not named or found.major == int(named[1])]
    if not fitting:
        names = " or ".join(f"`{names[0]}`" for names in LIBRARIES.values())
        raise LatteError(f"{VARIABLE} is `{place}`, but there is no {names} there", hint=INSTALL_HINT)
    yield from fitting


def _everywhere(environment: Mapping[str, str], path: tuple[str, ...], root: Path) -> Iterator[Candidate]:
    # A second copy of a loaded library would be loaded under another path, so what is there comes first.
    yield from _loaded_copies()
    for entry in path:
        yield from _in(Path(entry, "nvidia/cudnn/lib"), "NVIDIA's wheel")
    for entry in path:
        yield from _in(Path(entry, "torch/lib"), "torch's wheel")
    for major in LIBRARIES:
        yield Candidate(major=major, folder=None, origin="system")
    for origin, folder in _prefixes(environment, root):
        yield from _in(folder, origin)


def _loaded_copies() -> Iterator[Candidate]:
    for major, names in LIBRARIES.items():
        for name in (*names, f"libcudnn_graph.so.{major}", f"libcudnn.so.{major}"):
            place = loaded_path(name)
            if place:
                yield from (found for found in _in(place.parent, "loaded") if found.major == major)
                break


def _prefixes(environment: Mapping[str, str], root: Path) -> Iterator[tuple[str, Path]]:
    named = [(name, Path(environment[name])) for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)]
    local = [("CUDA", prefix) for prefix in sorted(root.glob("usr/local/cuda*"), reverse=True)]
    for origin, prefix in (*named, *local):
        yield from ((origin, prefix / folder) for folder in ("lib64", "lib"))
    if environment.get("CONDA_PREFIX"):
        yield "CONDA_PREFIX", Path(environment["CONDA_PREFIX"], "lib")
    yield "Jetson", root / "usr/lib/aarch64-linux-gnu"


def _in(folder: Path, origin: str) -> Iterator[Candidate]:
    for major, names in LIBRARIES.items():
        if (folder / names[0]).is_file():
            yield Candidate(major=major, folder=folder, origin=origin)
