"""Probes: libraries that may crash, abort or hang as they load are tried in a child process, which answers in JSON."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from latte_cli import child
from latte_cli.errors import LatteError

if TYPE_CHECKING:
    from latte_cli.engines import Engine

LIMIT_S = child.START_LIMIT_S  # where a worker starts in time, so do probes; a driver that hangs goes on for ever
_SLOW_HINT = "a slow disk or processor takes longer the first time: try it once more"

_VARIABLES = {"cudnn": "LATTE_CUDNN", "onednn": "LATTE_ONEDNN"}


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why a probe has no answer; `missing` if what was looked for is not there, else it is there and does not work."""

    reason: str
    hint: str = ""
    missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Module:
    """A Python package that could be imported, and the folder it came from."""

    version: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as torch sees it; `capability` is its compute capability."""

    name: str
    uuid: str
    memory_bytes: int
    capability: tuple[int, int]
    integrated: bool


@dataclass(frozen=True, kw_only=True)
class Torch:
    """What torch says of itself: what it was built with, what it has code for, and the GPUs it can use.

    `cuda` is the CUDA version it was built for, "" for a build for the CPU only; `architectures` are named as nvcc
    does (`sm_90`, `compute_90`); `gpu_trouble` is why it can use no GPU.
    """

    version: str
    path: str
    cuda: str
    onednn: str
    architectures: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    gpu_trouble: str


@dataclass(frozen=True, kw_only=True)
class Cudnn:
    """The cuDNN that the CUDA backend opens; `origin` is how it was found."""

    version: str
    path: str
    origin: str


@dataclass(frozen=True, kw_only=True)
class Onednn:
    """The oneDNN that the CPU backend opens next to torch's own; `one_pool` if its threads are torch's."""

    version: str
    path: str
    origin: str
    one_pool: bool


def look(name: str, limit_s: float = LIMIT_S) -> object:
    """What the probe, or the package, `name` is on this machine: a record of this module, or the trouble it meets."""
    return _record(name, _ask(name, limit_s))


def look_together(names: Sequence[str], limit_s: float) -> dict[str, object] | None:
    """The same for several in one child process, which imports once what they share; None where it does not answer."""
    try:
        found = child.ask(f"{__name__}:answer_all", list(names), limit_s=limit_s)
    except (child.Ended, child.TimedOut):
        return None
    return {name: _record(name, _found_or_trouble(body)) for name, body in zip(names, found, strict=True)}


def _record(name: str, answer: Any) -> object:
    return answer if isinstance(answer, Trouble) else _RECORDS.get(name, Module)(**answer)


def _torch_from(*, gpus: Sequence[Any], architectures: Sequence[str], **rest: Any) -> Torch:
    read = tuple(Gpu(**gpu | {"capability": tuple(gpu["capability"])}) for gpu in gpus)
    return Torch(gpus=read, architectures=tuple(architectures), **rest)


_RECORDS: dict[str, Callable[..., object]] = {"torch": _torch_from, "cudnn": Cudnn, "onednn": Onednn}


def cudnn_handle(limit_s: float = LIMIT_S) -> Trouble | None:
    """Make a cuDNN handle on the first GPU in a child process; the trouble it meets, or None."""
    answer = _ask("cudnn-handle", limit_s)
    return answer if isinstance(answer, Trouble) else None


def engines(question: Mapping[str, object], limit_s: float = LIMIT_S) -> Any | Trouble:
    """What cuDNN has for a GPU that is not here, asked in a child process; see `deviceless`, whose JSON it is."""
    return _ask("engines", limit_s, question)


def gpu_properties(limit_s: float = LIMIT_S) -> Any | Trouble:
    """What cuDNN says of the first GPU, as JSON for `deviceless`, read in a child process."""
    return _ask("gpu-properties", limit_s)


def answer_all(names: Sequence[str]) -> list[dict[str, Any]]:
    """The child's part: what each of several probes finds, or the trouble it meets."""
    return [answer({"name": name, "question": None}) for name in names]


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The child's part: what the probe `name` finds, or the trouble it meets."""
    name, question = request["name"], request["question"]
    try:
        return {"found": _LOOKS[name](question) if name in _LOOKS else asdict(_module(name))}
    except LatteError as error:
        # What the variable names is there, and cannot be opened.
        missing = name in _VARIABLES and not os.environ.get(_VARIABLES[name])
        return {"trouble": asdict(Trouble(reason=error.message, hint=error.hint or "", missing=missing))}
    except ModuleNotFoundError as error:
        missing = error.name == name
        reason = "not installed" if missing else f"needs the module `{error.name}`"
        return {"trouble": asdict(Trouble(reason=reason, missing=missing))}


def _ask(name: str, limit_s: float, question: Mapping[str, object] | None = None) -> Any:
    try:
        found = child.ask(f"{__name__}:answer", {"name": name, "question": question}, limit_s=limit_s)
    except child.TimedOut as exc:
        return Trouble(reason=str(exc), hint=_SLOW_HINT)
    except child.Ended as exc:
        return Trouble(reason=str(exc))
    return _found_or_trouble(found)


def _found_or_trouble(body: Mapping[str, Any]) -> Any:
    return Trouble(**body["trouble"]) if "trouble" in body else body["found"]


def _module(name: str) -> Module:
    sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type] # XGBoost works without, as in boosters.library
    found = import_module(name)
    return Module(version=str(getattr(found, "__version__", "")), path=_folder(found))


def _folder(module: Any) -> str:
    return os.path.dirname(getattr(module, "__file__", None) or "")  # noqa: PTH120 - text is what is wanted


def _torch() -> Torch:
    import torch

    gpus, trouble = _gpus() if torch.version.cuda else ((), "")
    onednn = re.search(r"(?:MKL-DNN|oneDNN) v([\d.]+)", torch.__config__.show())
    return Torch(
        version=torch.__version__,
        path=_folder(torch),
        cuda=torch.version.cuda or "",
        onednn=onednn[1] if onednn else "",
        architectures=tuple(torch.cuda.get_arch_list()),
        gpus=gpus,
        gpu_trouble=trouble,
    )


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that torch can use, or why it can use none."""
    cuda: Any = import_module("torch").cuda
    try:
        cuda.init()
        return tuple(_gpu(cuda.get_device_properties(index)) for index in range(cuda.device_count())), ""
    except (RuntimeError, AssertionError) as exc:
        return (), str(exc).partition("\n")[0]


def _gpu(properties: Any) -> Gpu:
    uuid = getattr(properties, "uuid", None)
    return Gpu(
        name=properties.name,
        uuid="" if uuid is None else f"GPU-{uuid}",
        memory_bytes=properties.total_memory,
        capability=(properties.major, properties.minor),
        integrated=bool(properties.is_integrated),
    )


def _cudnn() -> Cudnn:
    """The cuDNN that the CUDA backend opens after it has imported torch."""
    library = _opened_cudnn()
    return Cudnn(version=".".join(map(str, library.version)), path=str(library.path), origin=library.origin)


def _onednn() -> Onednn:
    """The oneDNN that the CPU backend opens after it has imported torch."""
    with suppress(ImportError):
        import torch as torch  # whose pool of threads is to be shared
    from latte_cli.backends.native.onednn import open_library

    library = open_library()
    return Onednn(
        version=library.version_text, path=str(library.path), origin=library.origin, one_pool=library.one_pool
    )


def _cudnn_handle() -> None:
    cuda: Any = import_module("torch").cuda
    cuda.init()
    _opened_cudnn().handle(0)


def _engines(question: Mapping[str, Any]) -> dict[str, Any]:
    from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
    from latte_cli.backends.native import cudnn
    from latte_cli.engines import Heuristic
    from latte_cli.layers import Convolution, Phase, layer_from_text
    from latte_cli.precisions import Layout, Precision

    library = _named_cudnn() if os.environ.get(_VARIABLES["cudnn"]) else _opened_cudnn()

    def listed(target: Any, text: str, phase: str) -> dict[str, Any]:
        layer, precision, layout = layer_from_text(text), question["precision"], question["layout"]
        assert isinstance(layer, Convolution)
        try:
            with cudnn.graph(target, layer, Phase(phase), Precision(precision), Layout(layout)) as graph:
                lists = {mode.name: graph.list_engines(mode) for mode in Heuristic}
                return {"engines": [_as_json(engine) for engine in graph.engines()], "lists": lists}
        except (Unsupported, OutOfMemory) as exc:
            return {"refused": str(exc)}

    try:
        with cudnn.EngineTarget(library, json=question["properties"]) as target:
            found = [listed(target, text, phase) for text, phase in question["pairs"]]
    except (Failed, Unsupported) as exc:
        raise LatteError(str(exc)) from exc
    return {"version": library.version_text, "listed": found}


def _as_json(engine: "Engine") -> dict[str, Any]:
    return asdict(engine) | {"numerical": sorted(engine.numerical), "behavior": sorted(engine.behavior)}


def _gpu_properties() -> str:
    from latte_cli.backends.contract import Failed, Unsupported
    from latte_cli.backends.native import cudnn

    cuda: Any = import_module("torch").cuda
    try:
        cuda.init()
        library = _opened_cudnn()
        return cudnn.properties(library, library.handle(0))
    except (Failed, Unsupported, RuntimeError, AssertionError) as exc:
        raise LatteError(str(exc).partition("\n")[0]) from exc


def _opened_cudnn() -> Any:
    with suppress(ImportError):
        import torch as torch  # where torch has brought its own cuDNN, that one is used
    return _named_cudnn()


def _named_cudnn() -> Any:
    """The cuDNN that its variable names, or that is there without torch's."""
    from latte_cli.backends.native import cudnn

    return cudnn.open_library()


_LOOKS: dict[str, Callable[[Any], object]] = {
    "torch": lambda _: asdict(_torch()),
    "cudnn": lambda _: asdict(_cudnn()),
    "onednn": lambda _: asdict(_onednn()),
    "cudnn-handle": lambda _: _cudnn_handle(),
    "engines": _engines,
    "gpu-properties": lambda _: _gpu_properties(),
}
