"""The real oneDNN of versions 2 and 3 opens, says who it is, shares torch's threads, and fails in words."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from onednn_libraries import packaged

from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
from latte_cli.backends.native.library import loaded_path
from latte_cli.backends.native.onednn import Library, open_library, statuses
from latte_cli.backends.native.onednn.find import Candidate, find_copies
from latte_cli.backends.native.onednn.signatures import FUNCTIONS, LIBRARIES
from latte_cli.errors import LatteError

pytest_plugins = ["onednn_libraries"]


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a separate process."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment or None)


def test_every_function_resolves_with_its_types(onednn: Library) -> None:
    for name, signature in FUNCTIONS.items():
        if onednn.major in signature.majors:
            function = onednn.function(name)
            assert (function.argtypes, function.restype) == (signature.arguments, signature.result), name


def test_the_library_says_who_it_is(onednn: Library, copy: Candidate) -> None:
    assert LIBRARIES[onednn.major] == Path(copy.file).name
    assert onednn.version_text.startswith(f"{onednn.major}.")
    assert (str(onednn.path), onednn.origin) == (copy.file, copy.origin)
    assert onednn.version_text in repr(onednn)


def test_the_same_copy_is_the_same_library_and_has_a_stream_for_each_thread(onednn: Library, copy: Candidate) -> None:
    assert open_library((copy,)) is onednn
    assert onednn.stream == onednn.stream != 0


MAPPED = """
import ctypes, sys
from pathlib import Path
import torch
if (beside := Path(sys.argv[1]).with_name("libOpenCL.so.1")).exists():
    ctypes.CDLL(str(beside))  # what Debian's oneDNN asks for
from latte_cli.backends.native.onednn import find, library
opened = library.open_library((find.Candidate(file=sys.argv[1], origin="here"),))
maps = Path("/proc/self/maps").read_text().splitlines()
print(opened.one_pool, len({line.split(maxsplit=5)[5] for line in maps if "gomp" in line}))
"""


def test_its_threads_are_torchs(onednn: Library, copy: Candidate) -> None:
    assert onednn.one_pool
    assert python(MAPPED, copy.file).stdout == "True 1\n"  # here other libraries may have brought theirs


APART = """
import ctypes, os, sys
from pathlib import Path
library, theirs, mangled = sys.argv[1:]
# As wheels have it that rename what they bring: torch's OpenMP library has another name.
data = Path(theirs).read_bytes()
assert data.count(b"libgomp.so.1\\0")
Path(mangled).write_bytes(data.replace(b"libgomp.so.1\\0", b"libgomX.so.1\\0"))
theirs = ctypes.CDLL(mangled)
if (beside := Path(library).with_name("libOpenCL.so.1")).exists():
    ctypes.CDLL(str(beside))  # what Debian's oneDNN asks for
from latte_cli.backends.native.onednn import find, library as opening, pool
pool.torch_openmp = lambda: Path(mangled)
opened = opening.open_library((find.Candidate(file=library, origin="here"),))
print(opened.one_pool, opened.openmp == Path(mangled))

from latte_cli.backends.native.onednn import problem
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision
layer = Convolution(batch=4, in_channels=16, out_channels=16, input=(32, 32), kernel=(3, 3))

def threads_after_a_run_on(count):
    theirs.omp_set_num_threads(count)
    with problem(opened, layer, Phase.FORWARD, Precision.FP32, Layout.NCHW) as described:
        execution = described.execution(described.implementations()[0], count)
    memory = [ctypes.create_string_buffer(2**21) for _ in range(5)]
    execution(*(-(-ctypes.addressof(each) // 64) * 64 for each in memory))
    return len(os.listdir("/proc/self/task"))

alone = threads_after_a_run_on(1)
print(alone, threads_after_a_run_on(3) - alone, "torch" in sys.modules)
"""


def test_statuses_become_what_they_say_of_a_layer() -> None:
    call = "dnnl_convolution_forward_primitive_desc_create"
    assert type(statuses.status_error(call, 1)) is OutOfMemory
    assert type(statuses.status_error(call, 2)) is type(statuses.status_error(call, 3)) is Unsupported
    assert type(statuses.status_error("dnnl_primitive_execute", 2)) is Failed
    assert type(statuses.status_error(call, 5)) is type(statuses.status_error(call, 99)) is Failed
    assert str(statuses.status_error(call, 3)) == f"{call}: dnnl_unimplemented"
    assert str(statuses.status_error(call, 99)) == f"{call}: dnnl_status 99"


def test_a_refused_call_names_itself_and_its_status(onednn: Library) -> None:
    with pytest.raises(Failed, match=r"^dnnl_stream_create: dnnl_invalid_arguments$"):
        onednn.call("dnnl_stream_create", None, None, 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "text", "text is not a shared library"),
        (lambda folder: loaded_path("libm.so.6"), "it has no `dnnl_"),
    ],
    ids=["a text", "another library"],
)
def test_what_is_no_onednn_is_told_in_words(tmp_path: Path, make: Callable[[Path], Path | None], words: str) -> None:
    (tmp_path / "text").write_text("just a text\n")
    file = make(tmp_path)
    if file is None:
        pytest.skip("another C library")
    with pytest.raises(LatteError, match="oneDNN cannot be opened; tried ") as raised:
        open_library((Candidate(file=str(file), origin="here"),))
    assert words in raised.value.message
    assert f"{file} (here)" in raised.value.message
    assert "pip install onednn-cpu-gomp" in (raised.value.hint or "")


def test_the_first_copy_that_opens_is_taken(onednn: Library, copy: Candidate, tmp_path: Path) -> None:
    nowhere = Candidate(file=str(tmp_path / "libdnnl.so.3"), origin="nowhere")
    assert open_library((nowhere, copy)).path == onednn.path


def test_opening_nothing_is_told_in_words() -> None:
    with pytest.raises(LatteError, match="tried nothing"):
        open_library(())


def test_importing_the_binding_opens_nothing_and_imports_no_torch() -> None:
    code = """
import sys, latte_cli.backends.native.onednn
assert "torch" not in sys.modules
assert "libdnnl" not in open("/proc/self/maps").read()
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_the_package_only_the_systems_loader_is_asked() -> None:
    assert [(each.file, each.origin) for each in find_copies({}, [])] == [
        ("libdnnl.so.3", "system"),
        ("libdnnl.so.2", "system"),
    ]


def test_the_package_comes_first_and_conda_next(tmp_path: Path) -> None:
    package = packaged()
    if package is None:
        pytest.skip("`pip install onednn-cpu-gomp`")
    library = tmp_path / "lib" / "libdnnl.so.3"
    library.parent.mkdir()
    shutil.copy(sys.executable, library)
    found = find_copies({"CONDA_PREFIX": str(tmp_path)})
    assert [each.origin for each in found][:2] == ["package onednn-cpu-gomp", "CONDA_PREFIX"]
    assert found[1].file == str(library)


def test_the_override_stands_alone(copy: Candidate) -> None:
    for place in (Path(copy.file), Path(copy.file).parent):
        (found,) = find_copies({"LATTE_ONEDNN": str(place), "CONDA_PREFIX": "/conda"})
        assert (Path(found.file).resolve(), found.origin) == (Path(copy.file).resolve(), "LATTE_ONEDNN")


@pytest.mark.parametrize(
    ("place", "words"),
    [("lib", "is no absolute path"), ("/nowhere/lib", "does not exist"), ("", "but there is no `libdnnl.so.3` or")],
)
def test_an_override_that_names_nothing_is_told_in_words(tmp_path: Path, place: str, words: str) -> None:
    with pytest.raises(LatteError, match="LATTE_ONEDNN is `") as raised:
        find_copies({"LATTE_ONEDNN": place or str(tmp_path)})
    assert words in raised.value.message


def test_an_openmp_library_of_another_name_is_shared_all_the_same(copy: Candidate, tmp_path: Path) -> None:
    theirs = Path(__import__("torch").__file__).parent / "lib/libgomp.so.1"
    if not theirs.is_file():
        pytest.skip("this torch brings no libgomp")
    done = python(APART, copy.file, theirs, tmp_path / "libgomX.so.1")
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["True True", "1 2 False"]
