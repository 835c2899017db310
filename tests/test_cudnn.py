"""The real libraries of cuDNN 8 and 9 open, say who they are, and fail in words; no GPU is needed."""

import ctypes
import shutil
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import cudnn_libraries
import pytest

from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
from latte_cli.backends.native.cudnn import Library, open_library, statuses
from latte_cli.backends.native.cudnn.find import Candidate
from latte_cli.backends.native.cudnn.library import version
from latte_cli.backends.native.cudnn.signatures import FUNCTIONS, LIBRARIES, AlgoPerf
from latte_cli.errors import LatteError

pytest_plugins = ["cudnn_libraries"]

NINE = pytest.mark.parametrize("folder", [9], indirect=True)
EIGHT = pytest.mark.parametrize("folder", [8], indirect=True)


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in a separate process."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def linked(folder: Path, source: Path, *without: str) -> Path:
    """`folder` with links to the libraries in `source`, but for those named."""
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.name not in without:
            (folder / file.name).symlink_to(file)
    return folder


def test_every_function_resolves_with_its_types(cudnn: Library, major: int) -> None:
    for name, signature in FUNCTIONS.items():
        if major in signature.majors:
            function = cudnn.function(name)
            assert (function.argtypes, function.restype) == (signature.arguments, signature.result), name


@EIGHT
def test_each_function_of_cudnn_8_is_exported_by_its_library_itself(folder: Path) -> None:
    for name, signature in FUNCTIONS.items():
        if 8 in signature.majors:
            assert name.encode() + b"\0" in exported_names(folder / signature.library8), name


def exported_names(library: Path) -> bytes:
    """The dynamic string table of a 64-bit ELF library."""
    with library.open("rb") as file:
        header = file.read(64)
        (at,), (count,) = struct.unpack_from("<Q", header, 40), struct.unpack_from("<H", header, 60)
        file.seek(at)
        sections = [struct.unpack("<IIQQQQIIQQ", file.read(64)) for _ in range(count)]
        dynamic = next(section for section in sections if section[1] == 11)
        strings = sections[dynamic[6]]
        file.seek(strings[4])
        return file.read(strings[5])


def test_the_library_says_who_it_is(cudnn: Library, folder: Path, major: int) -> None:
    assert cudnn.version == {9: (9, 28, 1), 8: (8, 9, 7)}[major]
    assert cudnn.version_text == ".".join(map(str, cudnn.version))
    assert cudnn.path == folder / LIBRARIES[major][0]
    assert cudnn.origin == "test"
    assert cudnn.version_text in repr(cudnn)


@pytest.mark.parametrize(
    ("number", "parts"), [(92801, (9, 28, 1)), (90100, (9, 1, 0)), (8907, (8, 9, 7)), (8005, (8, 0, 5))]
)
def test_versions_are_decoded_by_their_major(number: int, parts: tuple[int, int, int]) -> None:
    assert version(number) == parts


def test_the_same_copy_is_the_same_library(cudnn: Library, major: int) -> None:
    assert open_library((cudnn_libraries.candidate(major),)) is cudnn


def test_both_majors_work_in_one_process() -> None:
    if not all(map(cudnn_libraries.complete, (8, 9))):
        pytest.skip("run `make libraries`")
    nine, eight = (open_library((cudnn_libraries.candidate(major),)) for major in (9, 8))
    assert [nine.version[0], eight.version[0], nine.version[0]] == [9, 8, 9]
    assert nine.function("cudnnGetErrorString")(3002) == b"CUDNN_STATUS_NOT_SUPPORTED_SHAPE"
    assert eight.function("cudnnGetErrorString")(9) == b"CUDNN_STATUS_NOT_SUPPORTED"


def test_statuses_have_the_names_that_cudnn_gives_them(cudnn: Library, major: int) -> None:
    numbers = [number for number in statuses.NAMES if number == 0 or (number >= 1000) == (major == 9)]
    for number in numbers:
        assert statuses.status_name(number) == cudnn.function("cudnnGetErrorString")(number).decode()


def test_no_status_of_cudnn_is_missing(cudnn: Library, major: int) -> None:
    for number in range(100) if major == 8 else range(1000, 6000):
        text = cudnn.function("cudnnGetErrorString")(number).decode()
        assert ("UNKNOWN" in text) == (number not in statuses.NAMES), number


@pytest.mark.parametrize("status", [6, 9, 11, 3000, 3002, 3999, 3, 2000, 2005, 2999])
def test_a_layer_that_an_algorithm_does_not_run_is_unsupported(status: int) -> None:
    raised = statuses.status_error("cudnnGetConvolutionForwardWorkspaceSize", status)
    assert type(raised) is Unsupported
    assert "cudnnGetConvolutionForwardWorkspaceSize: CUDNN_STATUS" in str(raised)


@pytest.mark.parametrize("status", [3005, 3006, 3008, 3009])
def test_a_broken_installation_says_nothing_of_a_layer(status: int) -> None:
    assert type(statuses.status_error("cudnnGetConvolutionForwardWorkspaceSize", status)) is Failed


@pytest.mark.parametrize("status", [2, 4003, 4004])
def test_a_failed_allocation_is_out_of_memory(status: int) -> None:
    assert type(statuses.status_error("cudnnConvolutionForward", status)) is OutOfMemory


@pytest.mark.parametrize("status", [1, 4, 5, 7, 8, 10, 12, 13, 14, 77, 1001, 1002, 4000, 4002, 5000, 5003, 7000])
def test_everything_else_is_a_failure(status: int) -> None:
    raised = statuses.status_error("cudnnConvolutionForward", status, "a remark")
    assert type(raised) is Failed
    assert str(raised).endswith("(a remark)")


@pytest.mark.parametrize("status", [3, 2000])
def test_a_bad_parameter_of_a_call_that_knows_no_layer_is_a_failure(status: int) -> None:
    assert type(statuses.status_error("cudnnSetStream", status)) is Failed
    assert type(statuses.status_error("cudnnSetTensor4dDescriptor", status)) is Unsupported


def test_a_refused_call_names_itself_and_its_status(cudnn: Library) -> None:
    with pytest.raises(Failed, match=r"^cudnnSetStream: CUDNN_STATUS_BAD_PARAM"):
        cudnn.set_stream(0, 0)


@NINE
def test_the_remark_on_a_failure_is_not_shown_on_the_next_one(cudnn: Library) -> None:
    made = ctypes.c_void_p()
    cudnn.call("cudnnCreateTensorDescriptor", ctypes.byref(made))
    with pytest.raises(Unsupported, match=r"n <= 0"):
        cudnn.call("cudnnSetTensor4dDescriptor", made, 0, 0, 0, 1, 1, 1)
    with pytest.raises(Unsupported) as raised:
        cudnn.call("cudnnSetTensor4dDescriptor", made, 9, 0, 1, 1, 1, 1)
    assert "n <= 0" not in str(raised.value)
    cudnn.call("cudnnDestroyTensorDescriptor", made)


without_gpu = pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA driver")


@without_gpu
def test_without_a_gpu_every_thread_is_told_so(cudnn: Library) -> None:
    raised: list[LatteError] = []

    def ask() -> None:
        with pytest.raises(LatteError, match="finds no usable NVIDIA driver or GPU") as error:
            cudnn.handle(0)
        raised.append(error.value)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    ask()
    for thread in threads:
        thread.join()
    assert len(raised) == 3
    assert all(error.message.startswith(f"cuDNN {cudnn.version_text} ") for error in raised)
    assert all("CUDNN_STATUS_NOT_INITIALIZED" in error.message for error in raised)
    assert {error.hint for error in raised} == {"run `latte doctor`"}


def test_a_result_row_has_the_size_that_the_header_gives_it() -> None:
    assert ctypes.sizeof(AlgoPerf) == 48
    assert (AlgoPerf.memory.offset, AlgoPerf.determinism.offset) == (16, 24)


OPEN = """
import sys
from pathlib import Path
from latte_cli.backends.native.cudnn.find import Candidate
from latte_cli.backends.native.cudnn.library import open_library
from latte_cli.errors import LatteError
try:
    print(open_library((Candidate(major=int(sys.argv[2]), folder=Path(sys.argv[1]), origin="here"),)))
except LatteError as error:
    print("refused:", error.message, "|", error.hint)
"""


@NINE
def test_the_shim_aborts_the_process_where_its_graph_part_is_missing(folder: Path, tmp_path: Path) -> None:
    broken = linked(tmp_path / "broken", folder, "libcudnn_graph.so.9")
    use = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).cudnnGetVersion())"
    assert python(use, broken / "libcudnn.so.9").returncode == -signal.SIGABRT


@NINE
@pytest.mark.parametrize("part", ["libcudnn_ops.so.9", "libcudnn_graph.so.9", "libcudnn_cnn.so.9"])
def test_a_missing_part_of_cudnn_9_is_told_in_words(folder: Path, tmp_path: Path, part: str) -> None:
    refused(linked(tmp_path / "broken", folder, part), 9, part)


@EIGHT
@pytest.mark.parametrize("part", cudnn_libraries.FILES[8])
def test_a_missing_part_of_cudnn_8_is_told_in_words(folder: Path, tmp_path: Path, part: str) -> None:
    refused(linked(tmp_path / "broken", folder, part), 8, part)


def refused(folder: Path, major: int, *words: str) -> None:
    done = python(OPEN, folder, major)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("refused: cuDNN cannot be opened; tried ")
    for word in (str(folder), "(here)", "| `pip install nvidia-cudnn-cu13`", "LATTE_CUDNN", "latte doctor", *words):
        assert word in done.stdout


def test_links_to_a_real_library_open(folder: Path, major: int, tmp_path: Path) -> None:
    done = python(OPEN, linked(tmp_path / "linked", folder), major)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"<cuDNN {major}.")
    assert str(tmp_path / "linked") in done.stdout


@NINE
def test_what_is_no_library_is_told_in_words(folder: Path, tmp_path: Path) -> None:
    bad = linked(tmp_path / "bad", folder, "libcudnn_cnn.so.9")
    (bad / "libcudnn_cnn.so.9").write_text("just a text\n")
    refused(bad, 9, "libcudnn_cnn.so.9 is not a shared library")


@NINE
@pytest.mark.parametrize(("at", "value"), [(4, 1), (18, 0x28)], ids=["32 bits", "another processor"])
def test_a_library_of_another_processor_is_told_in_words(folder: Path, tmp_path: Path, at: int, value: int) -> None:
    bad = linked(tmp_path / "bad", folder, "libcudnn_cnn.so.9")
    shutil.copy(folder / "libcudnn_cnn.so.9", bad)
    with (bad / "libcudnn_cnn.so.9").open("r+b") as file:
        file.seek(at)
        file.write(bytes([value]))
    refused(bad, 9, "libcudnn_cnn.so.9 is built for another processor than this Python")


@NINE
def test_a_library_without_the_functions_is_told_in_words(folder: Path, tmp_path: Path) -> None:
    bad = linked(tmp_path / "bad", folder, "libcudnn_cnn.so.9")
    (bad / "libcudnn_cnn.so.9").symlink_to(folder / "libcudnn_graph.so.9")
    refused(bad, 9, "it has no `cudnn")


def test_the_first_copy_that_opens_is_taken(cudnn: Library, major: int, tmp_path: Path) -> None:
    nowhere = Candidate(major=major, folder=tmp_path, origin="nowhere")
    assert open_library((nowhere, cudnn_libraries.candidate(major))).path == cudnn.path


def test_opening_nothing_is_told_in_words() -> None:
    with pytest.raises(LatteError, match="tried nothing") as raised:
        open_library(())
    assert raised.value.hint is not None


def test_importing_the_binding_opens_nothing_and_imports_no_torch() -> None:
    code = """
import sys, latte_cli.backends.native.cudnn
assert "torch" not in sys.modules
assert "libcudnn" not in open("/proc/self/maps").read() and "libcuda" not in open("/proc/self/maps").read()
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
