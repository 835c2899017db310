"""Estimates as traces: the calls of a step on a time line, for Perfetto and chrome://tracing."""

from collections.abc import Iterator, Sequence
from typing import Any

from latte_cli import __version__
from latte_cli.estimator import Estimate, LayerTime, schedule_calls

_PROCESS = 1  # chosen: the number of the first process in the trace


def trace(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """The calls of one step, one after the other in the order in which they run, in the trace event format's JSON.

    Times are in microseconds; each estimate is a separate process, each phase a colour and a category. On a GPU the
    host launches calls on a separate line, and the device does each once it is launched and the one before is done.
    """
    events = [event for at, each in enumerate(estimates, start=_PROCESS) for event in _events(each, at)]
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"version": f"latte {__version__}", "model": estimates[0].network.name},
    }


_DEVICE, _HOST = 1, 2  # chosen: rows in this order, the device above the host


def _events(estimate: Estimate, process: int) -> Iterator[dict[str, Any]]:
    kind = estimate.device.kind
    name = (
        f"{estimate.network.name}, batch {estimate.network.batch_size}: {estimate.strategy} on {estimate.device.slug}"
    )
    yield _name_event("process_name", process, _DEVICE, name)
    yield _name_event("thread_name", process, _DEVICE, kind.title)
    queued = kind.queued and not estimate.step.cuda_graph
    if queued:
        yield _name_event("thread_name", process, _HOST, "host")
    for each in schedule_calls(estimate.parts, asked_at_once=not queued):
        part = each.call
        if not part.device_s and not part.host_s:
            continue
        if queued:
            yield _event(part, process, _HOST, each.asked_s, part.host_s)
        yield _event(part, process, _DEVICE, each.start_s, part.device_s)


def _name_event(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def _event(part: LayerTime, process: int, thread: int, start_s: float, lasting_s: float) -> dict[str, Any]:
    return {
        "name": part.name,
        "cat": part.stage,
        "ph": "X",
        "ts": 1e6 * start_s,
        "dur": 1e6 * lasting_s,
        "pid": process,
        "tid": thread,
        "args": {
            "phase": part.stage,
            "kind": part.layer.kind,
            "algorithm": part.algorithm.name,
            "source": part.source,
            "low_us": 1e6 * part.low_s,
            "high_us": 1e6 * part.high_s,
            "workspace_bytes": part.workspace_bytes,
        },
    }
