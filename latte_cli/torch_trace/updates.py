"""Updates: which optimizer a trace's update is, as far as its events tell."""

from collections.abc import Sequence

from latte_cli.optimizers import OPTIMIZERS, measured_name
from latte_cli.torch_trace.steps import HostCall, operator_name

_WAYS = (("-foreach", "_foreach_"), ("-fused", "_fused_"))


def optimizer_of(updates: Sequence[HostCall], *, tensors: int, on_gpu: bool) -> str | None:
    """The name by which the optimizer of these updates is measured; None where torch's class is not known.

    The class stands in the event's name. Its implementation and an SGD's momentum show in the operators that it calls
    for so many `tensors`.
    """
    if not updates:
        return None
    call = updates[0]
    class_name = call.event.name.partition("#")[2].partition(".")[0]
    operators = [operator_name(event) for event in call.inner]
    way = next((way for way, part in _WAYS if any(name.startswith(part) for name in operators)), "")
    plain = [name for name, rule in OPTIMIZERS.items() if rule.torch_class == class_name and "-" not in name]
    if not plain:
        return None
    has_momentum = "mul" in operators or "_foreach_mul" in operators or _fused_states(call) > 2 * tensors
    name = plain[-1] if len(plain) > 1 and has_momentum else plain[0]
    return measured_name(f"{name}{way}", on_gpu=on_gpu) if f"{name}{way}" in OPTIMIZERS else None


def _fused_states(call: HostCall) -> int:
    """How many tensors a fused update reads."""
    fused = [event for event in call.inner if event.name.startswith("aten::_fused_") and event.dims]
    return sum(bool(shape) for event in fused for shape in event.dims or ())
