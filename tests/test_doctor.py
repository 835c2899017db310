"""What the doctor finds, and that a library that crashes is a finding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stand_ins import write_libraries

from latte_cli.backends import probes
from latte_cli.backends.contract import Finding, State
from latte_cli.backends.cpu import CpuOpener
from latte_cli.backends.cpu.findings import instruction_sets
from latte_cli.backends.cuda.findings import has_code
from latte_cli.backends.finding import trouble
from latte_cli.backends.host import processor_name
from latte_cli.backends.native.onednn.find import Candidate
from latte_cli.backends.probes import Module, Trouble
from latte_cli.doctor import all_findings, first_missing, is_usable

pytest_plugins = ["cudnn_libraries", "onednn_libraries"]

EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9654 96-Core Processor
flags\t\t: fpu sse2 avx f16c avx2 avx512f avx512dq avx512bw avx512vl avx512_bf16 avx512_vnni

processor\t: 1
flags\t\t: fpu sse2
"""
SAPPHIRE_RAPIDS = "flags\t\t: fpu avx avx2 avx512f avx512_fp16 avx512_bf16 amx_bf16 amx_tile amx_int8\n"
OLD_INTEL = "model name\t: Intel(R) Core(TM) i5-2400 CPU @ 3.10GHz\nflags\t\t: fpu sse4_2 avx\nbugs\t\t: avx2\n"
GRACE = "processor\t: 0\nFeatures\t: fp asimd aes crc32 asimdhp sve asimddp sve2 i8mm bf16\nCPU implementer\t: 0x41\n"
RASPBERRY_PI_4 = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"


@pytest.mark.parametrize(
    ("cpuinfo", "sets"),
    [
        (EPYC, ("avx2", "avx512f", "avx512_bf16")),
        (SAPPHIRE_RAPIDS, ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")),
        (OLD_INTEL, ()),
        (GRACE, ("asimd", "asimdhp", "sve", "sve2", "bf16", "i8mm")),
        (RASPBERRY_PI_4, ("asimd",)),
        ("", ()),
    ],
    ids=["epyc", "sapphire rapids", "old intel", "grace", "raspberry pi 4", "nothing"],
)
def test_the_instruction_sets_are_those_of_the_first_core(cpuinfo: str, sets: tuple[str, ...]) -> None:
    assert instruction_sets(cpuinfo) == sets


EPYC_UNNAMED = "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n"
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\nCPU revision\t: 1\n"
APPLE_M1 = "processor\t: 0\nCPU implementer\t: 0x61\nCPU part\t: 0x022\n\nprocessor\t: 4\nCPU part\t: 0x023\n"


@pytest.mark.parametrize(
    ("cpuinfo", "board", "name"),
    [
        (EPYC, "", "AMD EPYC 9654 96-Core"),
        (EPYC_UNNAMED, "", "AMD EPYC (family 26 model 2)"),
        (OLD_INTEL, "", "Intel Core i5-2400"),
        (GRAVITON_2, "", "Neoverse-N1"),
        (GRAVITON_2.replace("d0c", "d4f"), "", "Neoverse-V2"),
        (GRAVITON_2, "Raspberry Pi 4 Model B Rev 1.4", "Raspberry Pi 4 Model B Rev 1.4"),
        (APPLE_M1, "", "aarch64 (implementer 0x61 part 0x022)"),
    ],
)
def test_processors_that_differ_have_different_names(cpuinfo: str, board: str, name: str) -> None:
    assert processor_name(cpuinfo, board=board) == name


WHEEL = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((9, 0), WHEEL, True),
        ((8, 9), WHEEL, True),
        ((6, 1), WHEEL, True),
        ((8, 7), ("sm_87",), True),
        ((8, 6), ("sm_87",), False),
        ((3, 7), WHEEL, False),
        ((12, 0), WHEEL, False),
        ((12, 0), (*WHEEL, "compute_90"), True),
        ((9, 0), ("sm_90a",), True),
        ((10, 0), ("sm_90a", "compute_90a"), False),
        ((10, 3), ("sm_100", "sm_120"), True),
        ((9, 0), (), False),
        ((9, 0), ("gfx942",), False),
    ],
)
def test_torch_has_code_for_a_gpu_of_its_major_version_or_later_by_portable_code(
    capability: tuple[int, int], architectures: tuple[str, ...], runs: bool
) -> None:
    assert has_code(capability, architectures) is runs


def finding(state: State, device: str) -> Finding:
    return Finding(subject=f"{state} {device}", state=state, text="", device=device)


def test_a_device_is_usable_if_nothing_that_it_needs_is_wanting() -> None:
    found = (finding(State.OK, "cpu"), finding(State.BROKEN, ""), finding(State.ABSENT, "cuda"))
    assert is_usable(found, "cpu")
    assert not is_usable(found, "cuda")
    assert first_missing(found, "cuda") == found[2]


def test_a_gpu_needs_what_the_cpu_needs() -> None:
    found = (finding(State.BROKEN, "cpu"), finding(State.OK, "cuda"))
    assert first_missing(found, "cuda") == first_missing(found, "cpu") == found[0]


def test_a_library_that_aborts_is_trouble_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aborting.py").write_text("import os\nos.write(2, b'line 1\\ncannot go on\\n')\nos.abort()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert probes.look("aborting") == Trouble(reason="ended by SIGABRT: cannot go on")
    assert [path.name for path in tmp_path.iterdir() if "core" in path.name] == []


def test_a_library_that_hangs_is_trouble_once_the_limit_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging.py").write_text("import threading\nthreading.Event().wait()\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = probes.look("hanging", 0.5)
    assert isinstance(found, Trouble)
    assert found.reason == "no answer within 0.5 s"
    assert "reinstall" not in trouble("torch", found, hint="`pip install --force-reinstall torch`").hint


def test_libraries_that_are_tried_together_and_do_not_answer_are_tried_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_libraries(tmp_path)
    (tmp_path / "pyarrow.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "torch.py").write_text("import os\nos.abort()\n")
    (tmp_path / "hanging.py").write_text("import threading\nthreading.Event().wait()\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert probes.look_together(("xgboost", "hanging"), 0.5) is None
    steps: list[float] = []
    given = all_findings("cpu", advance=lambda done, label: steps.append(done))
    found = {each.subject: (each.state, each.text) for each in given}
    assert found["torch"] == (State.BROKEN, "ended by SIGABRT: a library gave up")
    assert found["pyarrow"] == (State.BROKEN, "ended with exit code 3")
    assert found["xgboost"] == (State.OK, "1.2")
    assert steps == [1, 2, 3, 4]


def test_a_library_that_chatters_is_heard_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chattering.py").write_text("print('hello'); print('{}')\n__version__ = '1.2'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert probes.look("chattering") == Module(version="1.2", path=str(tmp_path))


def test_a_package_that_is_not_there_is_told_from_one_that_lacks_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy.py").write_text("import nowhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert probes.look("nowhere") == Trouble(reason="not installed", missing=True)
    assert probes.look("needy") == Trouble(reason="needs the module `nowhere`")


def test_a_file_of_the_current_folder_is_not_taken_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyarrow.py").write_text("raise SystemExit('wrong one')\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(probes.look("pyarrow"), Module)


def test_a_text_file_in_place_of_cudnn_is_broken_and_not_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libcudnn_cnn.so.9").write_text("not a library\n")
    monkeypatch.syspath_prepend(write_libraries(tmp_path))
    monkeypatch.setenv("LATTE_CUDNN", str(tmp_path / "libcudnn_cnn.so.9"))
    trouble = probes.look("cudnn")
    assert isinstance(trouble, Trouble)
    assert not trouble.missing
    assert "libcudnn_cnn.so.9" in trouble.reason


def test_a_real_cudnn_is_named_with_its_version_and_place(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(write_libraries(tmp_path))
    monkeypatch.setenv("LATTE_CUDNN", str(folder))
    found = probes.look("cudnn")
    assert isinstance(found, probes.Cudnn)
    assert folder.name.startswith(f"cudnn-{found.version}")
    assert Path(found.path).parent == folder
    assert found.origin == "LATTE_CUDNN"


def test_the_cpu_of_this_machine_can_be_measured() -> None:
    steps: list[float] = []
    found = {each.subject: each for each in all_findings("cpu", advance=lambda done, label: steps.append(done))}
    assert is_usable(tuple(found.values()), "cpu")
    told = ["processor", "memory", "Python", "latte", "torch", "oneDNN", "oneDNN beside torch", "pyarrow", "xgboost"]
    assert list(found) == told
    assert found["torch"].state is State.OK
    assert Path(found["torch"].path, "__init__.py").is_file()
    assert steps == sorted(steps)


def test_a_jetson_without_a_build_of_torch_for_it_is_told_where_to_find_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (
        ("proc/device-tree/model", "NVIDIA Jetson Orin Nano\0"),
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081\n"),
        ("var/lib/nvpmodel/status", "pmode:0001\n"),
        ("etc/nvpmodel.conf", "< POWER_MODEL ID=1 NAME=25W >\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(write_libraries(tmp_path))
    found = {each.subject: each for each in all_findings(root=tmp_path)}
    assert (found["NVIDIA driver"].state, found["NVIDIA driver"].text) == (State.OK, "L4T 36.4.3")
    assert (found["power mode"].state, found["power mode"].text) == (State.OK, "25W")
    assert found["torch for CUDA"].state is State.ABSENT
    assert "JetPack" in found["torch for CUDA"].hint


def test_the_doctor_does_not_load_torch_into_its_own_process(tmp_path: Path) -> None:
    path = os.pathsep.join([str(write_libraries(tmp_path)), *sys.path])
    code = (
        "import sys; from latte_cli.doctor import all_findings; all_findings('cpu');"
        "sys.exit(str({'torch', 'xgboost', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stderr.strip() == "set()"


def test_a_real_onednn_is_named_with_its_version_and_place(copy: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTE_ONEDNN", copy.file)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(copy.file).parent))  # Debian's asks for another one
    answers = probes.look_together(CpuOpener().looks(), probes.LIMIT_S)
    assert answers
    found = answers["onednn"]
    assert isinstance(found, probes.Onednn)
    assert (found.path, found.origin, found.one_pool) == (copy.file, "LATTE_ONEDNN", True)
    findings = CpuOpener().findings(answers, Path("/"), probes.LIMIT_S)
    beside = next(each for each in findings if each.subject == "oneDNN beside torch")
    assert (beside.state, beside.text) == (State.OK, f"{found.version} (LATTE_ONEDNN)")


def test_a_onednn_that_is_not_there_hinders_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTE_ONEDNN", str(tmp_path))
    monkeypatch.syspath_prepend(write_libraries(tmp_path))
    found = all_findings("cpu")
    beside = next(each for each in found if each.subject == "oneDNN beside torch")
    assert (beside.state, beside.device) == (State.BROKEN, "")
    assert "pip install onednn-cpu-gomp" in beside.hint
    assert is_usable(found, "cpu")
