"""cuDNN is looked for in the promised places and order, told apart in made-up folders with the real libraries."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from latte_cli.backends.native.cudnn.find import Candidate, find_copies
from latte_cli.backends.native.cudnn.signatures import LIBRARIES
from latte_cli.errors import LatteError

pytest_plugins = ["cudnn_libraries"]

SYSTEM = [(9, None, "system"), (8, None, "system")]


def holding(folder: Path, major: int, source: Path) -> Path:
    """`folder` with links to the libraries of `source`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.glob(f"*.so.{major}"):
        (folder / file.name).symlink_to(file)
    return folder


def told(found: tuple[Candidate, ...]) -> list[tuple[int, Path | None, str]]:
    """What was found, but for what other tests have loaded."""
    return [(each.major, each.folder, each.origin) for each in found if each.origin != "loaded"]


@pytest.fixture
def places(tmp_path: Path, folder: Path, major: int) -> Iterator[dict[str, Path]]:
    names = {
        "wheel": "b/nvidia/cudnn/lib",
        "torch": "a/torch/lib",
        "home": "home/lib64",
        "path": "path/lib",
        "new": "root/usr/local/cuda-13.0/lib64",
        "old": "root/usr/local/cuda-12.4/lib64",
        "conda": "conda/lib",
        "jetson": "root/usr/lib/aarch64-linux-gnu",
    }
    yield {name: holding(tmp_path / place, major, folder) for name, place in names.items()}


def test_places_are_tried_in_order(places: dict[str, Path], tmp_path: Path, major: int) -> None:
    environment = {name: str(tmp_path / name.split("_")[1].lower()) for name in ("CUDA_HOME", "CUDA_PATH")}
    environment["CONDA_PREFIX"] = str(tmp_path / "conda")
    found = find_copies(environment, [str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "root")
    assert told(found) == [
        (major, places["wheel"], "NVIDIA's wheel"),
        (major, places["torch"], "torch's wheel"),
        *SYSTEM,
        (major, places["home"], "CUDA_HOME"),
        (major, places["path"], "CUDA_PATH"),
        (major, places["new"], "CUDA"),
        (major, places["old"], "CUDA"),
        (major, places["conda"], "CONDA_PREFIX"),
        (major, places["jetson"], "Jetson"),
    ]


def test_where_nothing_is_only_the_systems_loader_is_asked(tmp_path: Path) -> None:
    assert told(find_copies({}, [str(tmp_path)], tmp_path)) == SYSTEM


def test_a_place_under_two_names_is_tried_once(places: dict[str, Path], tmp_path: Path, major: int) -> None:
    (tmp_path / "root/usr/local/cuda").symlink_to(tmp_path / "root/usr/local/cuda-13.0")
    found = told(find_copies({"CUDA_HOME": str(tmp_path / "root/usr/local/cuda")}, [], tmp_path / "root"))
    assert [(place, origin) for _, place, origin in found if origin.startswith("CUDA")] == [
        (tmp_path / "root/usr/local/cuda/lib64", "CUDA_HOME"),
        (places["old"], "CUDA"),
    ]


def test_the_override_stands_alone(places: dict[str, Path], tmp_path: Path, major: int, folder: Path) -> None:
    for place in (folder, folder / LIBRARIES[major][0]):
        found = find_copies({"LATTE_CUDNN": str(place), "CUDA_HOME": str(tmp_path / "home")}, [str(tmp_path / "b")])
        assert [(each.major, each.folder, each.origin) for each in found] == [(major, folder, "LATTE_CUDNN")]


def test_a_library_of_the_override_tells_the_major(tmp_path: Path, major: int, folder: Path) -> None:
    for each in LIBRARIES:
        (tmp_path / LIBRARIES[each][0]).touch()
    assert [found.major for found in find_copies({"LATTE_CUDNN": str(tmp_path)})] == [9, 8]
    for each in LIBRARIES:
        file = tmp_path / LIBRARIES[each][0]
        assert [found.major for found in find_copies({"LATTE_CUDNN": str(file)})] == [each]


def test_an_empty_override_is_none(tmp_path: Path) -> None:
    assert told(find_copies({"LATTE_CUDNN": ""}, [], tmp_path)) == SYSTEM


def test_a_bad_override_is_told_in_words(tmp_path: Path) -> None:
    cases = {
        "lib/cudnn": "which is no absolute path",
        str(tmp_path / "gone"): "which does not exist",
        str(tmp_path): "but there is no `libcudnn_cnn.so.9` or `libcudnn_cnn_infer.so.8` there",
    }
    for value, words in cases.items():
        with pytest.raises(LatteError, match=r"^LATTE_CUDNN is ") as raised:
            find_copies({"LATTE_CUDNN": value})
        assert words in raised.value.message
        assert value in raised.value.message
        assert raised.value.hint


FIND = """
import ctypes, sys
from pathlib import Path
from latte_cli.backends.native.cudnn import open_library
from latte_cli.backends.native.cudnn.find import find_copies
from latte_cli.errors import LatteError
keep = ctypes.CDLL(sys.argv[1]) if sys.argv[1] else None
try:
    print(open_library(find_copies(path=[sys.argv[2]], root=Path("/nowhere"))).path)
    print(find_copies(path=[sys.argv[2]], root=Path("/nowhere"))[0].origin)
except LatteError as error:
    print(error.message)
copies = {line.split()[-1] for line in open("/proc/self/maps") if "libcudnn_ops" in line}
print(len(copies))
"""


def find(loaded: Path | str, entry: Path, **environment: str) -> list[str]:
    """The path, the best origin and the number of copies loaded, of a process that has `loaded` loaded before."""
    command = [sys.executable, "-c", FIND, str(loaded), str(entry)]
    whole = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=whole)
    return done.stdout.splitlines()


@pytest.fixture
def wheel(tmp_path: Path, folder: Path, major: int) -> Path:
    """A `sys.path` entry with another path to the same libraries."""
    holding(tmp_path / "wheel/nvidia/cudnn/lib", major, folder)
    return tmp_path / "wheel"


def test_the_copy_that_is_loaded_is_taken_and_no_other_is_loaded(wheel: Path, folder: Path, major: int) -> None:
    library = LIBRARIES[major][0]
    assert find(folder / library, wheel) == [str(folder / library), "loaded", str(1 + (major == 8))]


@pytest.mark.parametrize("folder", [9], indirect=True)
def test_the_shim_that_is_loaded_shows_where_its_parts_are(wheel: Path, folder: Path) -> None:
    assert find(folder / "libcudnn.so.9", wheel) == [str(folder / "libcudnn_cnn.so.9"), "loaded", "1"]


def test_where_nothing_is_loaded_the_wheel_is_taken(wheel: Path, major: int) -> None:
    path, _, copies = find("", wheel)
    assert path == str(wheel / "nvidia/cudnn/lib" / LIBRARIES[major][0])
    assert copies == str(1 + (major == 8))


def test_the_systems_loader_finds_what_is_on_its_path(tmp_path: Path, folder: Path, major: int) -> None:
    path, *_ = find("", tmp_path, LD_LIBRARY_PATH=str(folder))
    assert path == str(folder / LIBRARIES[major][0])


def test_an_override_that_does_not_open_is_not_passed_over(wheel: Path, tmp_path: Path, major: int) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / LIBRARIES[major][0]).write_text("just a text\n")
    message, copies = find("", wheel, LATTE_CUDNN=str(bad))
    assert "is not a shared library" in message
    assert "LATTE_CUDNN" in message
    assert copies == "0"
