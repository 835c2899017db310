"""Engines: what PyTorch and XLA take of recorded lists, and the real cuDNN's answers for a GPU that is not here.

The lists are cuDNN 9.28's for 32 x 64 x 56 x 56, 128 channels, 3 x 3, in NCHW on an H200 described by its properties.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cudnn_libraries import complete, folder_of
from running import here

from latte_cli.algorithms import Algorithm
from latte_cli.backends.cuda import deviceless
from latte_cli.engines import Engine, Heuristic, Listed, family, is_engine
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase
from latte_cli.network import zoo
from latte_cli.precisions import Layout, Precision

TENSOR_CORE = frozenset({"TENSOR_CORE"})
ROUNDED = frozenset({"TENSOR_CORE", "DOWN_CONVERT_INPUTS"})
PLAIN: frozenset[str] = frozenset()


def engines(**notes: frozenset[str]) -> list[Engine]:
    return [Engine(index=int(name[1:]), numerical=each, workspace_bytes=0) for name, each in notes.items()]


FORWARD = Listed(
    operation=Phase.FORWARD,
    engines=engines(
        e0=frozenset({"STRICT_NAN_PROP"}),
        e1=PLAIN,
        e2=PLAIN,
        e22=ROUNDED,
        e28=PLAIN,
        e35=TENSOR_CORE,
        e38=TENSOR_CORE,
        e46=TENSOR_CORE,
        e67=TENSOR_CORE,
        e70=PLAIN,
    ),
    lists={
        Heuristic.INSTANT: (38, 67, 36, 46, 35, 48),
        Heuristic.B: (22, 38, 67, 46, 35, 48, 70, 41, 28),
        Heuristic.FALLBACK: (1, 28, 0, 71),
        Heuristic.A: (38, 67, 36, 46, 35, 48),
    },
)
BACKWARD_DATA = Listed(
    operation=Phase.BACKWARD_DATA,
    engines=engines(e0=PLAIN, e1=PLAIN, e2=PLAIN, e25=frozenset({"NONDETERMINISTIC"}), e71=TENSOR_CORE, e74=PLAIN),
    lists={Heuristic.INSTANT: (71, 76, 74, 25, 2), Heuristic.B: (76, 71, 25, 74, 2, 0), Heuristic.A: (71, 74, 1)},
)


def indices(found: list[Engine]) -> list[int]:
    return [engine.index for engine in found]


def test_pytorch_tries_what_is_listed_and_then_its_own_fallbacks() -> None:
    assert indices(FORWARD.pytorch(Precision.TF32)) == [38, 67, 46, 35, 0, 1, 28]
    assert indices(FORWARD.pytorch(Precision.BF16, mode_b=True)) == [38, 67, 46, 35, 70, 28, 0, 1]


def test_fp32_is_neither_rounded_nor_computed_in_tf32() -> None:
    assert indices(FORWARD.pytorch(Precision.FP32)) == [0, 1, 28]
    assert indices(FORWARD.pytorch(Precision.FP32, mode_b=True)) == [70, 28, 0, 1]
    assert 22 not in indices(FORWARD.xla(Precision.TF32))
    assert indices(FORWARD.xla(Precision.FP32)) == [70, 28]


def test_where_results_must_repeat_the_others_are_left_out() -> None:
    assert indices(BACKWARD_DATA.pytorch(Precision.FP32)) == [74, 25, 2, 0, 1]
    assert indices(BACKWARD_DATA.pytorch(Precision.FP32, deterministic=True)) == [74, 2, 0, 1]
    assert [engine.deterministic for engine in BACKWARD_DATA.engines] == [True, True, True, False, True, True]


def test_xla_times_what_both_heuristics_list_each_once() -> None:
    assert indices(BACKWARD_DATA.xla(Precision.TF32)) == [71, 25, 74, 2, 0, 1]


@pytest.mark.parametrize(
    ("engine", "phase", "expected"),
    [
        (Engine(index=0), Phase.FORWARD, "IMPLICIT_GEMM"),
        (Engine(index=1), Phase.FORWARD, "IMPLICIT_PRECOMP_GEMM"),
        (Engine(index=2), Phase.FORWARD, "GEMM"),
        (Engine(index=2), Phase.BACKWARD_DATA, "IMPLICIT_GEMM"),
        (Engine(index=9, numerical=TENSOR_CORE), Phase.FORWARD, "TENSOR_CORE_IMPLICIT_GEMM"),
        (Engine(index=3, numerical=frozenset({"FFT"})), Phase.FORWARD, "FFT"),
        (Engine(index=6, numerical=frozenset({"WINOGRAD"}), workspace_bytes=9), Phase.FORWARD, "WINOGRAD_NONFUSED"),
        (Engine(index=12, numerical=frozenset({"WINOGRAD"}), workspace_bytes=0), Phase.FORWARD, "WINOGRAD"),
    ],
)
def test_notes_tell_the_family(engine: Engine, phase: Phase, expected: str) -> None:
    assert engine.family(phase) == expected


@pytest.mark.parametrize(
    ("name", "notes", "found"),
    [
        ("ENGINE_38", ("TENSOR_CORE",), "TENSOR_CORE_IMPLICIT_GEMM"),
        ("ENGINE_1", (), "IMPLICIT_PRECOMP_GEMM"),
        ("FFT_TILING", (), "FFT"),
        ("WINOGRAD", (), "WINOGRAD"),
        ("NEW_IN_CUDNN_10", (), ""),
    ],
)
def test_reports_speak_of_families(name: str, notes: tuple[str, ...], found: str) -> None:
    assert family(Algorithm(library="cudnn", name=name), Phase.FORWARD, notes) == found


def test_engines_are_told_from_named_algorithms() -> None:
    assert is_engine(Engine(index=7).algorithm)
    assert not is_engine(Algorithm(library="cudnn", name="FFT", vendor_id=4))


# The real library, for a GPU that is not here

H200 = {
    **{"cudaDeviceId": 0, "deviceVer": 900, "driverVer": 13000, "deviceName": "NVIDIA H200"},
    **{"maxGridSize": [2**31 - 1, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536},
    **{"multiProcessorCount": 132, "smCountOrigin": 0, "warpSize": 32, "maxSharedMemoryPerBlock": 49152},
    **{"maxSharedMemoryPerBlockOptin": 232448, "oversizedSharedMemoryPerBlock": 0},
    **{"reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32},
    **{"maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0},
    **{"supportCoopLaunch": 1, "smClockRateKHz": 1980000, "memClockRateKHz": 3201000, "memoryBusWidth": 6144},
    **{"l2CacheSize": 62914560, "totalGlobalMem": 150 * 10**9},
}
DRIVER = (
    *("cuGetErrorString", "cuModuleGetFunction", "cuModuleLoadData", "cuModuleUnload"),
    *("cuTensorMapEncodeIm2col", "cuTensorMapEncodeTiled"),
)
LAYER = Convolution(
    batch=32, in_channels=64, out_channels=128, input=(56, 56), kernel=(3, 3), pad_before=(1, 1), pad_after=(1, 1)
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `libcuda.so.1` that knows no GPU, for machines without NVIDIA's driver."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc")
    folder = tmp_path_factory.mktemp("driver")
    source = folder / "driver.c"
    source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in DRIVER))
    library = ("-o", folder / "libcuda.so.1", "-Wl,-soname,libcuda.so.1")
    subprocess.run(("gcc", "-shared", "-fPIC", *library, source), check=True)
    return folder


@pytest.fixture
def cudnn9(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of the real cuDNN 9 that tests have: those that compile kernels as they run, no others."""
    if not complete(9):
        pytest.skip("no cuDNN 9: run `make libraries`")
    monkeypatch.setenv("LATTE_CUDNN", str(folder_of(9)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "h200.json"
    made.write_text(json.dumps(H200))
    return made


def asked(properties: str) -> deviceless.Answer:
    pairs = [(LAYER, phase) for phase in LAYER.phases]
    return deviceless.answer(properties, pairs, Precision.BF16, Layout.CHANNELS_LAST)


@pytest.mark.usefixtures("cudnn9")
def test_cudnn_lists_engines_for_a_gpu_that_is_not_here(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    found = asked(json.dumps(H200))
    assert found.version.startswith("9.")
    assert len(found.listed) == 3
    for listed in found.listed:
        assert isinstance(listed, Listed)
        assert set(listed.lists) == set(Heuristic)
        assert all(engine.workspace_bytes is not None for engine in listed.engines)


@pytest.mark.usefixtures("cudnn9")
def test_without_the_driver_s_library_it_says_what_it_takes() -> None:
    with pytest.raises(LatteError, match=r"does not tell its engines here: .*SUBLIBRARY_LOADING_FAILED") as raised:
        asked(json.dumps(H200))
    assert "libcuda.so.1" in (raised.value.hint or "")


@pytest.mark.usefixtures("cudnn9")
def test_properties_that_are_none_are_refused(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    with pytest.raises(LatteError, match="cudnnBackendFinalize: CUDNN_STATUS_BAD_PARAM"):
        asked(json.dumps({**H200, "warpSize": "many"}))


@pytest.mark.usefixtures("cudnn9")
def test_explain_lists_them_for_a_model(
    driver: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    model = tmp_path / "lenet.onnx"
    model.write_bytes(zoo.export("lenet"))
    options = ("--for-device", file, "--batch-size", 8, "--precision", "bf16")
    table = here("explain", model, *options).stdout
    assert "lenet on NVIDIA H200, cuDNN 9." in table.splitlines()[0]
    found = json.loads(here("explain", model, *options, "--format", "json").stdout)
    assert len(found["calls"]) == 6
    lines = here("explain", model, *options, "--format", "csv").stdout.splitlines()
    assert lines[0].startswith("name,phase,engine,family,")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"deviceName": "a GPU"}', "\x00"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(content)
    with pytest.raises(LatteError, match=r"`.*gpu\.json` holds no properties of a GPU: "):
        deviceless.read_properties(file)
    with pytest.raises(LatteError, match="No such file"):
        deviceless.read_properties(tmp_path / "missing.json")


def test_a_machine_without_a_gpu_has_nothing_to_write(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    with pytest.raises(LatteError, match="cuDNN describes no GPU here: "):
        deviceless.write_properties(file)
    assert not file.exists()
