"""Overhead: what the profiler's own work adds to a step."""

from collections.abc import Sequence
from statistics import median

from latte_cli.torch_trace.steps import Role, TracedStep

_BEGINNINGS = 1.7  # as torch_traces.py --overhead measures, 14 trainings on busy cores: 0.9 to 2.6 (torch 2.13)
_USUAL_S = 2e-6  # the same trainings: 1.2 to 3.5 us an event; for a trace without a backward pass
_MOST_S = 20e-6  # chosen: ten times what busy cores take; beyond it the gaps are not the profiler's


def profiler_overhead_s(steps: Sequence[TracedStep]) -> float:
    """Seconds of the host for each event that the profiler recorded there, as the trace itself tells.

    Autograd's engine records two events for a node of backward, one directly in the other. Between their beginnings
    lies little but the profiler's work for one of them, which ends before the time is read. Beside it, each event ends.
    """
    beginnings = [
        call.inner[0].start_s - call.event.start_s
        for step in steps
        for call in step.calls
        if call.role is Role.BACKWARD and call.inner
    ]
    return min(_MOST_S, _BEGINNINGS * median(beginnings)) if beginnings else _USUAL_S
