"""Origins: which device a trace is of, and in which arithmetic its products ran."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from latte_cli.backends import host
from latte_cli.backends.host import slug
from latte_cli.devices import CPU, CUDA, ROCM, XPU, Device, Kind, spec_named
from latte_cli.errors import LatteError
from latte_cli.precisions import Layout, Precision
from latte_cli.store import Store
from latte_cli.torch_trace.events import Category, Event, ProfilerTrace
from latte_cli.torch_trace.operators import CONVOLVING, PRODUCTS
from latte_cli.torch_trace.steps import TracedStep, operator_name

_OF_APPLE = re.compile(r"(?:^|_)mps(?:_|$)")  # operators such as `_mps_convolution` and `lstm_mps_backward`
_LAUNCHES = (("hip", ROCM), ("cu", CUDA), ("ur", XPU), ("ze", XPU))
"""How the calls begin that launch kernels on a kind of device."""


def traced_device(trace: ProfilerTrace, name: str | None, threads: int | None, store: Store) -> Device:
    """The device that a trace is of; `name` is one that the user says.

    Raises LatteError for a CPU, which a trace does not name, unless the user does, and for a device whose kernels
    torch.profiler does not see.
    """
    launches = [event.name for event in trace.events if event.category is Category.LAUNCH]
    if not any(event.category is Category.KERNEL for event in trace.events):
        _check_seen(trace, launches)
        return _cpu(name, threads, store)
    kinds = [kind for word, kind in _LAUNCHES if any(launch.startswith(word) for launch in launches)]
    facts = trace.devices[0] if trace.devices else {}
    shown = str(facts.get("name") or name or "")[:200]
    if not slug(shown):
        raise LatteError("the trace does not name its GPU", hint="name it: `--device NAME`")
    kind = kinds[0] if kinds else CUDA
    return _stored_device(slug(name or shown), kind, store) or Device(
        slug=slug(name or shown),
        kind=kind,
        name=shown,
        memory_bytes=_whole(facts, "totalGlobalMem"),
        multiprocessors=_whole(facts, "numSms"),
        compute_capability=_capability(facts),
    )


def _check_seen(trace: ProfilerTrace, launches: Sequence[str]) -> None:
    names = {event.name for event in trace.events if event.category is Category.OPERATOR}
    if any(_OF_APPLE.search(operator_name_of(name)) for name in names):
        raise LatteError(
            "the trace is of an Apple GPU, whose kernels torch.profiler does not time",
            hint="there is no way to a profile of it from a trace yet",
        )
    if launches:
        raise LatteError(
            "the trace has launches of kernels but no kernels",
            hint="make it with `profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])`, or XPU",
        )


def operator_name_of(name: str) -> str:
    """`aten::_mps_convolution` as `_mps_convolution`."""
    return name.rpartition("::")[2]


def _cpu(name: str | None, threads: int | None, store: Store) -> Device:
    if name is None:
        raise LatteError(
            "a trace of a CPU does not name it",
            hint="`--device cpu` for this machine's, `--device NAME` for another",
        )
    spec = spec_named(name)
    if spec is None:
        if not slug(name):
            raise LatteError(f"`{name}` is no name for a device", hint="letters and digits, as in `--device desk`")
        return _stored_device(slug(name), CPU, store) or Device(slug=slug(name), kind=CPU, name=name)
    if spec.kind is not None and not spec.kind.threaded:
        raise LatteError(f"`{name}` is no CPU, and the trace is of one", hint="`--device cpu` for this machine's")
    return _stored_device(host.cpu_slug(threads), CPU, store) or Device(
        slug=host.cpu_slug(threads),
        kind=CPU,
        name=host.cpu_name(),
        memory_bytes=host.memory_bytes(),
        cache_bytes=host.last_level_cache_bytes(),
    )


def _stored_device(name: str, kind: Kind, store: Store) -> Device | None:
    """The device of that name as the store knows it; raises LatteError where it is of another kind."""
    found = next((device for device in store.devices() if device.slug == name), None)
    if found and found.kind != kind:
        raise LatteError(
            f"the profile `{name}` is of a {found.kind.title} ({found.kind}), and the trace of a {kind.title} ({kind})",
            hint="give the trace's device another name: `--device NAME`",
        )
    return found


def _whole(facts: Mapping[str, Any], key: str) -> int | None:
    value = facts.get(key)
    return value if isinstance(value, int) and 0 < value < 2**60 else None


def _capability(facts: Mapping[str, Any]) -> str:
    major, minor = facts.get("computeMajor"), facts.get("computeMinor")
    return f"{major}.{minor}" if isinstance(major, int) and isinstance(minor, int) else ""


def precision_of(trace: ProfilerTrace, steps: Sequence[TracedStep]) -> Precision:
    """The arithmetic of a step's products: the type that most of them are given, and that of the innermost ones."""
    outer: Counter[str] = Counter()
    inner: Counter[str] = Counter()
    for call in steps[-1].calls:
        for event in (call.event, *call.inner):
            if operator_name(event) in (*PRODUCTS, *CONVOLVING) and event.types:
                inner[event.types[0]] += 1
                outer[event.types[0]] += event is call.event
    given, computed = _most(outer), _halves(inner) or _most(inner)
    if given != computed and computed in _HALVES:
        return _HALVES[computed][1]
    if given in _HALVES:
        return _HALVES[given][0]
    return Precision.TF32 if _uses_tf32(trace.events) else Precision.FP32


_HALVES = {
    "c10::Half": (Precision.FP16, Precision.FP16_AUTOCAST),
    "c10::BFloat16": (Precision.BF16, Precision.BF16_AUTOCAST),
}
"""What torch calls types, and the precisions of a model in it and of one that autocast casts to it."""


def _most(counts: Counter[str]) -> str:
    return counts.most_common(1)[0][0] if counts else "float"


def _halves(counts: Counter[str]) -> str:
    return next((name for name in _HALVES if counts[name]), "")


def layout_of(steps: Sequence[TracedStep]) -> Layout:
    """How the inputs of most convolutions of a step lie, as far as their strides are there."""
    counts: Counter[Layout] = Counter()
    for call in steps[-1].calls:
        shapes, strides = call.event.dims, call.event.strides
        if not (shapes and strides and len(strides[0]) == len(shapes[0]) > 2):
            continue
        channels, innermost = shapes[0][1], shapes[0][2:]
        if channels > 1 and max(innermost) > 1:
            counts[Layout.CHANNELS_LAST if strides[0][1] == 1 else Layout.NCHW] += 1
    return counts.most_common(1)[0][0] if counts else Layout.NCHW


def _uses_tf32(events: Iterable[Event]) -> bool:
    return any(event.category is Category.KERNEL and "tf32" in event.name.lower() for event in events)
