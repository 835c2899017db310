"""What a machine has of what measuring its CPU needs: processor, memory, torch, oneDNN."""

import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import latte_cli
from latte_cli import __version__
from latte_cli.backends import host
from latte_cli.backends.contract import Finding, Looks, State
from latte_cli.backends.finding import gib, ok, text_of, trouble
from latte_cli.backends.probes import Onednn, Torch, Trouble
from latte_cli.devices import CPU

LOOKS: Looks = ("torch", "onednn")
"""What is asked in child processes."""

_BESIDE = "oneDNN beside torch"
_SETS = {
    "x86": ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"),
    "arm": ("asimd", "asimdhp", "sve", "sve2", "bf16", "i8mm"),
}


def findings(answers: Mapping[str, object]) -> Iterator[Finding]:
    """What the answers say."""
    torch = answers["torch"]
    yield from _machine()
    yield from _torch(torch)
    if isinstance(torch, Torch):
        yield _onednn_beside(answers["onednn"])


def instruction_sets(cpuinfo: str) -> tuple[str, ...]:
    """The sets of instructions that matter to layers, of a text like /proc/cpuinfo."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    has = set(line[1].split()) if line else set()
    return tuple(name for names in _SETS.values() for name in names if name in has)


def _machine() -> Iterator[Finding]:
    sets = instruction_sets(text_of(Path("/proc/cpuinfo")))
    cores = host.cores()
    processor = f"{host.cpu_name()}, {cores} core{'s' if cores > 1 else ''}"
    yield ok("processor", ", ".join(filter(None, (processor, " ".join(sets)))), device=CPU.name)
    yield ok("memory", gib(host.memory_bytes()), device=CPU.name)
    yield ok("Python", platform.python_version(), path=sys.executable)
    yield ok("latte", __version__, path=str(Path(latte_cli.__file__ or "").parent))


def _torch(answer: object) -> Iterator[Finding]:
    if isinstance(answer, Torch):
        yield ok("torch", answer.version, path=answer.path, device=CPU.name)
        yield _onednn(answer)
    elif isinstance(answer, Trouble):
        yield trouble("torch", answer, hint="`pip install --force-reinstall torch`", device=CPU.name)


def _onednn(torch: Torch) -> Finding:
    if torch.onednn:
        return ok("oneDNN", torch.onednn)
    text = "this torch was built without it: convolutions on the CPU have fewer algorithms"
    return Finding(subject="oneDNN", state=State.ABSENT, text=text)


def _onednn_beside(answer: object) -> Finding:
    """The oneDNN whose implementations are separate algorithms; nothing needs it."""
    if isinstance(answer, Trouble):
        return trouble(_BESIDE, answer)
    assert isinstance(answer, Onednn)
    threads = "" if answer.one_pool else ", its threads apart from torch's"
    return ok(_BESIDE, f"{answer.version} ({answer.origin}{threads})", path=answer.path)
