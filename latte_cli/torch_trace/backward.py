"""Backward: which forward call each evaluated node of autograd belongs to, and for which gradients it worked."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from latte_cli.layers import Convolution, Layer, Linear, Phase
from latte_cli.torch_trace.events import Event
from latte_cli.torch_trace.steps import HostCall, Role, operator_name

_ACCUMULATES = "torch::autograd::AccumulateGrad"
_OF_DATA = ("dgrad", "bwd_data", "backward_data", "backward_input")
_OF_FILTER = ("wgrad", "bwd_filter", "backward_filter", "backward_weight", "bwd_weight")


def forward_calls(calls: Sequence[HostCall]) -> Mapping[int, int]:
    """The forward call that each backward call belongs to, by their places in a step.

    Autograd numbers its nodes as they are made. A forward call has the number of the first node that it makes. What
    adds up a parameter's gradient has none, and follows the node that made it.
    """
    starts = sorted(
        (call.event.sequence, place)
        for place, call in enumerate(calls)
        if call.role is Role.OPERATOR and call.event.sequence >= 0
    )
    numbers = [number for number, _ in starts]
    found: dict[int, int] = {}
    last: int | None = None
    for place, call in enumerate(calls):
        if call.role is not Role.BACKWARD:
            continue
        if call.event.sequence >= 0:
            at = bisect_right(numbers, call.event.sequence) - 1
            last = starts[at][1] if at >= 0 else None
        if last is not None:
            found[place] = last
    return found


def phase_shares(layer: Layer, phases: Sequence[Phase], call: HostCall) -> list[tuple[Phase, float]]:
    """The backward ones of a layer's `phases` that a call computes, with their shares of it."""
    backward = [phase for phase in phases if phase is not Phase.FORWARD]
    if len(backward) < 2:
        return [(phase, 1.0) for phase in backward]
    if call.name == _ACCUMULATES or call.name.startswith("TBackward"):
        return [(Phase.BACKWARD_FILTER, 1.0)]
    data_s, filter_s = _parts(layer, call)
    if min(data_s, filter_s) <= 0:
        data_s = filter_s = 1.0  # one call computes both, which are products of as many numbers
    whole_s = data_s + filter_s
    return [(Phase.BACKWARD_DATA, data_s / whole_s), (Phase.BACKWARD_FILTER, filter_s / whole_s)]


def _parts(layer: Layer, call: HostCall) -> tuple[float, float]:
    """The seconds of a backward call for the gradient of the input, and of the weight; 0 where it does not tell."""
    if isinstance(layer, Linear):
        products = [event for event in call.inner if operator_name(event) in ("mm", "bmm", "addmm")]
        if len(products) == 2:
            return _seconds_of(products[0], call), _seconds_of(products[1], call)
    if isinstance(layer, Convolution) and not call.kernels:
        return _parts_by_shape(layer, call)
    events = [kernel for kernel, _ in call.kernels] or call.inner
    return _seconds_named(events, _OF_DATA), _seconds_named(events, _OF_FILTER)


def _seconds_named(events: Sequence[Event], words: Sequence[str]) -> float:
    return sum(event.lasting_s for event in events if any(word in event.name.lower() for word in words))


def _parts_by_shape(layer: Convolution, call: HostCall) -> tuple[float, float]:
    """The parts of a convolution's backward call on a CPU: it shapes the input's gradient, then the weight's."""
    data, weight = layer.input_shapes[0], layer.parameter_shapes[0]
    ends = {
        shape: max((event.end_s for event in call.inner[2:] if event.dims and event.dims[0] == shape), default=0.0)
        for shape in (data, weight)
    }
    return ends[data] - call.event.start_s, ends[weight] - ends[data]


def _seconds_of(event: Event, call: HostCall) -> float:
    """What an inner event took: its kernels, else itself."""
    if not call.kernels:
        return event.lasting_s
    return sum(kernel.lasting_s for kernel, at_s in call.kernels if event.start_s <= at_s < event.end_s)
