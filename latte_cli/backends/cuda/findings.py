"""What a machine has of what measuring an NVIDIA GPU needs: driver, torch for CUDA, GPUs, telemetry, cuDNN."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from latte_cli.backends import probes
from latte_cli.backends.contract import Finding, Looks, State
from latte_cli.backends.finding import gib, ok, text_of, trouble
from latte_cli.backends.probes import Cudnn, Gpu, Torch, Trouble
from latte_cli.backends.telemetry import Telemetry, gpu_count, jetson, open_telemetry
from latte_cli.devices import CUDA

LOOKS: Looks = ("cudnn",)
"""What is asked in child processes."""

_TORCH_FOR_CUDA = "`pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126`"
_TORCH_FOR_JETSON = "install NVIDIA's build of torch for your JetPack: https://pypi.jetson-ai-lab.io"
_NO_DRIVER = "install the NVIDIA driver, or in a container pass the GPU on: `docker run --gpus all`"
_TOO_OLD = "update the NVIDIA driver, or install a torch built for an older CUDA"


def findings(answers: Mapping[str, object], root: Path, limit_s: float) -> Iterator[Finding]:
    """What the answers say; where torch sees a GPU, cuDNN has to give a handle on it."""
    torch = answers["torch"]
    yield from _gpus(torch if isinstance(torch, Torch) else None, root)
    handle = probes.cudnn_handle(limit_s) if isinstance(torch, Torch) and torch.gpus else None
    yield from _cudnn(answers["cudnn"], isinstance(torch, Torch) and bool(torch.gpus), handle)


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
    kernel = re.search(r"(?:Kernel Module|for \S+)\s+([\d.]+)", text_of(root / "proc/driver/nvidia/version"))
    nvml = open_telemetry(index=0, root=root)
    version = nvml.facts.driver or (kernel[1] if kernel else "") or jetson.release(root)
    if version or seen:
        return ok("NVIDIA driver", version or "of unknown version", device=CUDA.name)
    return Finding(subject="NVIDIA driver", state=State.ABSENT, text=nvml.reason, hint=_NO_DRIVER, device=CUDA.name)


def _torch_for_cuda(torch: Torch, root: Path) -> Finding:
    if torch.cuda:
        return ok("torch for CUDA", f"built for CUDA {torch.cuda}", device=CUDA.name)
    hint = _TORCH_FOR_JETSON if jetson.is_jetson(root) else _TORCH_FOR_CUDA
    text = f"torch {torch.version} was built without CUDA"
    return Finding(subject="torch for CUDA", state=State.ABSENT, text=text, hint=hint, device=CUDA.name)


def _gpu(index: int, gpu: Gpu, architectures: Sequence[str], root: Path) -> Iterator[Finding]:
    subject, device = f"GPU {index}", "" if index else CUDA.name
    read = open_telemetry(uuid=gpu.uuid or None, index=index, root=root)
    capability = ".".join(map(str, gpu.capability))
    memory = gib(gpu.memory_bytes) + (", shared with the host" if gpu.integrated else "")
    text = f"{gpu.name}, {memory}, compute capability {capability}"
    yield ok(subject, ", ".join((text, *_clocks(read))), device=device)
    if has_code(gpu.capability, architectures):
        yield ok(f"code for {subject}", f"torch has it: {' '.join(architectures)}", device=device)
    else:
        text = f"torch has no kernels for compute capability {capability}, only {' '.join(architectures) or 'nothing'}"
        hint = "install a torch that has: older ones for an older GPU, newer ones for a newer GPU"
        yield Finding(subject=f"code for {subject}", state=State.BROKEN, text=text, hint=hint, device=device)
    yield _telemetry(subject, read)


def _gpus_without_torch(torch: Torch | None, root: Path) -> Iterator[Finding]:
    """The GPUs that the driver sees while torch sees none."""
    for index in range(gpu_count()):
        read = open_telemetry(index=index, root=root)
        facts = read.facts
        memory = gib(facts.memory_bytes) if facts.memory_bytes else ""
        capability = f"compute capability {facts.compute_capability}" if facts.compute_capability else ""
        yield ok(f"GPU {index}", ", ".join(filter(None, (facts.name, memory, capability, *_clocks(read)))))
    hint = _TOO_OLD if torch and "driver" in torch.gpu_trouble and gpu_count() else ""
    text = (torch.gpu_trouble if torch else "") or "torch can use none"
    yield Finding(subject="GPU", state=State.ABSENT, text=text, hint=hint, device=CUDA.name)


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
        return ok(f"telemetry of {subject}", ", ".join(told))
    text = read.reason or "no reading is supported"
    hint = "`pip install nvidia-ml-py`" if "pynvml" in text else ""
    return Finding(subject=f"telemetry of {subject}", state=State.ABSENT, text=text, hint=hint)


def _cudnn(library: object, seen: bool, handle: Trouble | None) -> Iterator[Finding]:
    if isinstance(library, Trouble):
        yield trouble("cuDNN", library, device=CUDA.name)
    elif isinstance(library, Cudnn):
        yield ok("cuDNN", f"{library.version} ({library.origin})", path=library.path, device=CUDA.name)
        if not seen:
            yield Finding(subject="cuDNN handle", state=State.ABSENT, text="needs a GPU", device=CUDA.name)
        elif handle:
            hint = "install the cuDNN that torch was built with: `pip install --force-reinstall torch`"
            yield trouble("cuDNN handle", handle, hint=hint, device=CUDA.name)
        else:
            yield ok("cuDNN handle", "can be made", device=CUDA.name)
