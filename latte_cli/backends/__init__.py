"""Backends: where a task becomes something that can be timed on a device."""

from dataclasses import replace

from latte_cli.algorithms import Algorithm
from latte_cli.backends.contract import Backend, Computation, Opener
from latte_cli.backends.cpu import CpuOpener
from latte_cli.backends.cuda import CudaOpener
from latte_cli.devices import AUTO, KINDS, Device, Kind, Spec, kind_of_torch, spec_named
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.layers import Convolution, Phase
from latte_cli.tasks import Settings

OPENERS: dict[str, Opener] = {opener.kind.name: opener for opener in (CpuOpener(), CudaOpener())}
"""The kinds of device that can be measured on this machine, by name; the host comes first, the best one last."""


def add(opener: Opener) -> None:
    """Make one more kind of device known."""
    KINDS[opener.kind.name] = opener.kind
    OPENERS[opener.kind.name] = opener


def measurable(kind: Kind) -> bool:
    """Whether LATTE measures devices of `kind` itself; of others it knows what was imported."""
    return kind.name in OPENERS


def opener_of(kind: Kind) -> Opener:
    """What opens devices of `kind` here; raises LatteError for a kind that rows may be of, but that is not measured."""
    if not measurable(kind):
        raise unknown("device", kind.name, [AUTO, *OPENERS])
    return OPENERS[kind.name]


def open_backend(
    spec: str, *, threads: int | None = None, name: str | None = None, memory_share: float = 0.5
) -> Backend:
    """The backend for `spec`: `auto` (a GPU that works, else the CPU), `cpu`, or a kind with an index, as in `cuda:0`.

    `threads` bounds a CPU's threads (default: all cores); `name` separates equal machines of a fleet; a GPU's tensors
    take at most `memory_share` of its memory. Raises LatteError for an unknown kind and a device that does not work.
    """
    meant = spec_named(spec)
    if meant is None:
        raise unknown("device", spec, [AUTO, *OPENERS])
    if meant.kind is None:
        meant = Spec(kind=best_kind(threads))
    assert meant.kind is not None
    if threads is not None and not meant.kind.threaded:
        raise LatteError(
            f"a {meant.kind.title} has no threads to set", hint="leave out `--threads`", exit_code=ExitCode.USAGE
        )
    return opener_of(meant.kind).open(index=meant.index, threads=threads, name=name, memory_share=memory_share)


def computation(algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings, device: str) -> Computation:
    """The function with which `algorithm` computes `phase` of `layer` from its operands on `device`, as torch names it.

    Backward filter gives the gradient of the weight alone. Raises Unsupported for an algorithm that does not; the
    function raises what torch and the library do.
    """
    kind = kind_of_torch(device.partition(":")[0])
    return opener_of(kind).computation(algorithm, layer, phase, settings, device)


def with_context(device: Device, threads: int | None, known: Device | None) -> Device:
    """`device` of this machine with what a process that trains takes: as `known`, where its libraries are the same.

    Otherwise a separate process measures it for some seconds.
    """
    if known and known.context_bytes is not None and known.libraries == device.libraries:
        found: int | None = known.context_bytes
        each = known.call_context_bytes
    else:
        measured = opener_of(device.kind).context(threads)
        found, each = (measured["bytes"], measured["call_bytes"]) if measured else (None, None)
    return replace(device, context_bytes=found, call_context_bytes=each)


def best_kind(threads: int | None = None) -> Kind:
    """The kind of the best device that works here; threads that are set ask for one that has them."""
    there = [each for each in OPENERS.values() if threads is None or each.kind.threaded]
    return next((each.kind for each in reversed(there) if each.usable()), there[0].kind)
