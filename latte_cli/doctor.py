"""Doctor: what this machine has of what measuring needs, what is missing, and what to type."""

import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from latte_cli import __version__, child
from latte_cli.backends import host, jetson, probes, telemetry
from latte_cli.backends.probes import Cudnn, Gpu, Module, Onednn, Torch, Trouble
from latte_cli.backends.telemetry import Telemetry

DEVICES = ("cpu", "cuda")
"""The kinds of device that can be asked for."""

LOOKS = 6
"""How many libraries are tried in a process of their own, each of which takes a second or more."""

_BESIDE = "oneDNN beside torch"
_SETS = {
    "x86": ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"),
    "arm": ("asimd", "asimdhp", "sve", "sve2", "bf16", "i8mm"),
}
_TORCH_FOR_CUDA = "`pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126`"
_TORCH_FOR_JETSON = "install NVIDIA's build of torch for your JetPack: https://pypi.jetson-ai-lab.io"
_NO_DRIVER = "install the NVIDIA driver, or in a container pass the GPU on: `docker run --gpus all`"
_TOO_OLD = "update the NVIDIA driver, or install a torch built for an older CUDA"


class State(StrEnum):
    """Whether something works, is not there, or is there and does not work."""

    OK = "ok"
    ABSENT = "absent"
    BROKEN = "broken"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one thing.

    `text` says what there is or why there is nothing, `path` where it lies, `hint` what to type or install ("" where
    all is well), `device` which device cannot be measured without it ("" if none needs it; a GPU needs what the CPU
    needs).
    """

    subject: str
    state: State
    text: str
    path: str = ""
    hint: str = ""
    device: str = ""


def findings(
    device: str = "",
    *,
    root: Path = Path("/"),
    limit_s: float = probes.LIMIT_S,
    advance: Callable[[float, str], None] = lambda done, label: None,
) -> tuple[Finding, ...]:
    """What this machine has for `device`, or for all devices: in order, so that the first that is wanting is the cause.

    Each library that may crash is tried in a child process for at most `limit_s` seconds; `advance` is told how many
    of `LOOKS` are done. `root` is the file system that drivers and boards are looked for in.
    """
    return tuple(_findings(device, root, limit_s, advance))


def usable(found: Sequence[Finding], device: str) -> bool:
    """Whether `device` can be measured here, by the findings for it."""
    return missing(found, device) is None


def missing(found: Sequence[Finding], device: str) -> Finding | None:
    """The first finding without which `device` cannot be measured; None where it can."""
    needs = DEVICES[: DEVICES.index(device) + 1]
    return next((finding for finding in found if finding.device in needs and finding.state is not State.OK), None)


def instruction_sets(cpuinfo: str) -> tuple[str, ...]:
    """The sets of instructions that matter to layers, of a text like /proc/cpuinfo."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    has = set(line[1].split()) if line else set()
    return tuple(name for names in _SETS.values() for name in names if name in has)


def has_code(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether code built for `architectures` (`sm_90`, `compute_80`) runs on a GPU of compute capability `capability`.

    Machine code runs on its own major version from its minor version on, and portable code (`compute`) on all later
    ones; code with a letter (`sm_90a`) on that version alone.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#application-compatibility
    """
    return any(_runs(capability, name) for name in architectures)


def _runs(capability: tuple[int, int], architecture: str) -> bool:
    parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)
    if not parts:
        return False
    built = int(parts[2]), int(parts[3])
    if parts[4]:
        return built == capability
    return built <= capability and (parts[1] == "compute" or built[0] == capability[0])


def _findings(device: str, root: Path, limit_s: float, advance: Callable[[float, str], None]) -> Iterator[Finding]:
    looked = _looks(device, limit_s, advance)
    yield from _machine()
    torch = looked["torch"]
    yield from _torch(torch)
    if isinstance(torch, Torch):
        yield _onednn_beside(looked["onednn"])
    if device != "cpu":
        yield from _gpus(torch if isinstance(torch, Torch) else None, root)
        yield from _cudnn(looked)
    for name, need in (("pyarrow", "cpu"), ("xgboost", "")):
        yield _module(name, looked[name], need)


def _looks(device: str, limit_s: float, advance: Callable[[float, str], None]) -> dict[str, object]:
    """The answers of the probes by name, two at a time: more would only wait for each other's reading from disk."""
    looks: dict[str, Callable[[], object]] = {
        "torch": lambda: probes.torch(limit_s),
        "onednn": lambda: probes.onednn(limit_s),
        "pyarrow": lambda: probes.module("pyarrow", limit_s),
        "xgboost": lambda: probes.module("xgboost", limit_s),
    }
    if device != "cpu":
        looks["cudnn"] = lambda: probes.cudnn(limit_s)
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = {pool.submit(look): name for name, look in looks.items()}
        answers: dict[str, object] = {}
        try:
            for future in as_completed(running):
                answers[running[future]] = future.result()
                advance(len(answers), running[future])
        except BaseException:  # an interruption: no thread is waited for longer than its child takes to die
            pool.shutdown(wait=False, cancel_futures=True)
            child.end_all()
            raise
    torch = answers["torch"]
    if device != "cpu" and isinstance(torch, Torch) and torch.gpus:
        answers["cudnn-handle"] = probes.cudnn_handle(limit_s)
    advance(LOOKS, "")
    return answers


def _machine() -> Iterator[Finding]:
    sets = instruction_sets(_text(Path("/proc/cpuinfo")))
    cores = host.cores()
    processor = f"{host.cpu_name()}, {cores} core{'s' if cores > 1 else ''}"
    yield _ok("processor", ", ".join(filter(None, (processor, " ".join(sets)))), device="cpu")
    yield _ok("memory", _gib(host.memory_bytes()), device="cpu")
    yield _ok("Python", platform.python_version(), path=sys.executable)
    yield _ok("latte", __version__, path=str(Path(__file__).parent))


def _torch(answer: object) -> Iterator[Finding]:
    if isinstance(answer, Torch):
        yield _ok("torch", answer.version, path=answer.path, device="cpu")
        yield _onednn(answer)
    elif isinstance(answer, Trouble):
        yield _trouble("torch", answer, hint="`pip install --force-reinstall torch`", device="cpu")


def _onednn(torch: Torch) -> Finding:
    if torch.onednn:
        return _ok("oneDNN", torch.onednn)
    text = "this torch was built without it: convolutions on the CPU have fewer algorithms"
    return Finding(subject="oneDNN", state=State.ABSENT, text=text)


def _onednn_beside(answer: object) -> Finding:
    """The oneDNN whose implementations are algorithms of their own; nothing needs it."""
    if isinstance(answer, Trouble):
        return _trouble(_BESIDE, answer)
    assert isinstance(answer, Onednn)
    threads = "" if answer.one_pool else ", its threads apart from torch's"
    return _ok(_BESIDE, f"{answer.version} ({answer.origin}{threads})", path=answer.path)


def _gpus(torch: Torch | None, root: Path) -> Iterator[Finding]:
    seen = torch.gpus if torch else ()
    yield _driver(root, bool(seen))
    if torch:
        yield _torch_for_cuda(torch, root)
    if seen:
        for index, gpu in enumerate(seen):
            yield from _gpu(index, gpu, torch.architectures if torch else (), root)
    else:
        yield from _gpus_without_torch(torch, root)
    if jetson.is_jetson(root):
        mode = jetson.power_mode(root)
        state = State.OK if mode else State.ABSENT
        yield Finding(subject="power mode", state=state, text=mode or "nvpmodel tells none")


def _driver(root: Path, seen: bool) -> Finding:
    """The driver by what NVML, the kernel's module or the Jetson's release say of it, or by what torch can use."""
    kernel = re.search(r"(?:Kernel Module|for \S+)\s+([\d.]+)", _text(root / "proc/driver/nvidia/version"))
    nvml = telemetry.open_telemetry(index=0, root=root)
    version = nvml.facts.driver or (kernel[1] if kernel else "") or jetson.release(root)
    if version or seen:
        return _ok("NVIDIA driver", version or "of unknown version", device="cuda")
    return Finding(subject="NVIDIA driver", state=State.ABSENT, text=nvml.reason, hint=_NO_DRIVER, device="cuda")


def _torch_for_cuda(torch: Torch, root: Path) -> Finding:
    if torch.cuda:
        return _ok("torch for CUDA", f"built for CUDA {torch.cuda}", device="cuda")
    hint = _TORCH_FOR_JETSON if jetson.is_jetson(root) else _TORCH_FOR_CUDA
    text = f"torch {torch.version} was built without CUDA"
    return Finding(subject="torch for CUDA", state=State.ABSENT, text=text, hint=hint, device="cuda")


def _gpu(index: int, gpu: Gpu, architectures: Sequence[str], root: Path) -> Iterator[Finding]:
    subject, device = f"GPU {index}", "" if index else "cuda"
    read = telemetry.open_telemetry(uuid=gpu.uuid or None, index=index, root=root)
    capability = ".".join(map(str, gpu.capability))
    memory = _gib(gpu.memory_bytes) + (", shared with the host" if gpu.integrated else "")
    text = f"{gpu.name}, {memory}, compute capability {capability}"
    yield _ok(subject, ", ".join((text, *_clocks(read))), device=device)
    if has_code(gpu.capability, architectures):
        yield _ok(f"code for {subject}", f"torch has it: {' '.join(architectures)}", device=device)
    else:
        text = f"torch has none for compute capability {capability}, only {' '.join(architectures) or 'nothing'}"
        hint = "install a torch that has: older ones for an older GPU, newer ones for a newer GPU"
        yield Finding(subject=f"code for {subject}", state=State.BROKEN, text=text, hint=hint, device=device)
    yield _telemetry(subject, read)


def _gpus_without_torch(torch: Torch | None, root: Path) -> Iterator[Finding]:
    """The GPUs that the driver sees while torch sees none."""
    for index in range(telemetry.gpu_count()):
        read = telemetry.open_telemetry(index=index, root=root)
        facts = read.facts
        memory = _gib(facts.memory_bytes) if facts.memory_bytes else ""
        capability = f"compute capability {facts.compute_capability}" if facts.compute_capability else ""
        yield _ok(f"GPU {index}", ", ".join(filter(None, (facts.name, memory, capability, *_clocks(read)))))
    hint = _TOO_OLD if torch and "driver" in torch.gpu_trouble and telemetry.gpu_count() else ""
    text = (torch.gpu_trouble if torch else "") or "torch can use none"
    yield Finding(subject="GPU", state=State.ABSENT, text=text, hint=hint, device="cuda")


def _clocks(read: Telemetry) -> tuple[str, ...]:
    facts = read.facts
    clocks = (("", facts.sm_clock_hz), ("memory ", facts.memory_clock_hz))
    return tuple(f"{name}{clock_hz / 1e6:.0f} MHz" for name, clock_hz in clocks if clock_hz)


def _telemetry(subject: str, read: Telemetry) -> Finding:
    now = read.conditions()
    known = {
        "clock": now.sm_clock_hz,
        "memory clock": now.memory_clock_hz,
        "temperature": now.temperature_c,
        "power": now.power_w,
        "throttling": now.throttled,
    }
    told = [name for name, value in known.items() if value is not None]
    if told:
        return _ok(f"telemetry of {subject}", ", ".join(told))
    text = read.reason or "no reading is supported"
    hint = "`pip install nvidia-ml-py`" if "pynvml" in text else ""
    return Finding(subject=f"telemetry of {subject}", state=State.ABSENT, text=text, hint=hint)


def _cudnn(looked: Mapping[str, object]) -> Iterator[Finding]:
    library, handle = looked["cudnn"], looked.get("cudnn-handle")
    if isinstance(library, Trouble):
        yield _trouble("cuDNN", library, device="cuda")
    elif isinstance(library, Cudnn):
        yield _ok("cuDNN", f"{library.version} ({library.origin})", path=library.path, device="cuda")
        if "cudnn-handle" not in looked:
            yield Finding(subject="cuDNN handle", state=State.ABSENT, text="needs a GPU", device="cuda")
        elif isinstance(handle, Trouble):
            hint = "install the cuDNN that torch was built with: `pip install --force-reinstall torch`"
            yield _trouble("cuDNN handle", handle, hint=hint, device="cuda")
        else:
            yield _ok("cuDNN handle", "can be made", device="cuda")


def _module(name: str, answer: object, device: str) -> Finding:
    if isinstance(answer, Trouble):
        return _trouble(name, answer, hint=f"`pip install --force-reinstall {name}`", device=device)
    assert isinstance(answer, Module)
    return _ok(name, answer.version, path=answer.path, device=device)


def _trouble(subject: str, trouble: Trouble, *, hint: str = "", device: str = "") -> Finding:
    # A library's own hint may send its reader to where he is.
    own = re.sub(r"(; |run )?`latte doctor`.*", "", trouble.hint)
    state = State.ABSENT if trouble.missing else State.BROKEN
    return Finding(subject=subject, state=state, text=trouble.reason, hint=own or hint, device=device)


def _ok(subject: str, text: str, *, path: str = "", device: str = "") -> Finding:
    return Finding(subject=subject, state=State.OK, text=text, path=path, device=device)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
