"""Optimizers: what each keeps of a parameter, what it holds while it updates, and how torch makes it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from math import prod
from typing import TypeAlias

from latte_cli.errors import unknown
from latte_cli.waits import Waits

_Shape: TypeAlias = tuple[int, ...]
Temporary: TypeAlias = Callable[[Sequence[_Shape]], int]
"""The most numbers that an update of parameters of these shapes holds at once beside them, but for single ones."""

COUNTER_BYTES = 4
"""What torch counts the steps of a tensor with is a 32-bit number, whatever type the tensor has."""


def no_temporary(shapes: Sequence[_Shape]) -> int:
    """Nothing: one kernel reads and writes all."""
    return 0


def one_by_one(shapes: Sequence[_Shape], *, own: int, before: int) -> int:
    """Tensor by tensor: `own` times the tensor while `before` times the one before is still there."""
    sizes = [0, *map(prod, shapes)]
    return max((own * here + before * last for last, here in pairwise(sizes)), default=0)


def all_at_once(shapes: Sequence[_Shape], *, times: int) -> int:
    """`times` the size of all tensors, which torch's `_foreach_` functions go over together."""
    return times * sum(map(prod, shapes))


def _factored_one_by_one(shapes: Sequence[_Shape]) -> int:
    """As `torch.optim._adafactor._single_tensor_adafactor` does it, whose names hold what the last tensor needed."""
    peak, held = 0, dict.fromkeys(("rows", "columns", "squares", "update"), 0)

    def hold(name: str, numbers: int, beside: int = 0) -> None:
        nonlocal peak
        peak = max(peak, sum(held.values()) + numbers + beside)
        held[name] = numbers

    for shape in shapes:
        if len(shape) > 1:
            rows, columns = _factors(shape)
            hold("rows", rows)
            hold("columns", columns)
            hold("update", prod(shape), beside=rows // max(1, shape[-2]))
        else:
            hold("squares", prod(shape))
            hold("update", prod(shape))
    return peak


def _factored_at_once(shapes: Sequence[_Shape]) -> int:
    """As `torch.optim._adafactor._multi_tensor_adafactor` does it: matrices together, vectors together."""
    groups: dict[bool, list[_Shape]] = {}
    for shape in shapes:
        groups.setdefault(len(shape) > 1, []).append(shape)
    peak, last = 0, 0
    for matrices, members in groups.items():
        whole = sum(map(prod, members))
        means = sum(_factors(shape)[0] // max(1, shape[-2]) for shape in members) if matrices else 0
        sides = [sum(side) for side in zip(*map(_factors, members), strict=True)] if matrices else [whole]
        peak = max(peak, last + max(*sides, whole + means))
        last = whole
    return peak


def _factors(shape: _Shape) -> tuple[int, int]:
    """How many numbers are kept for the rows, and for the columns, of the last two dimensions."""
    return prod(shape) // max(1, shape[-1]), prod(shape) // max(1, shape[-2])


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """How an optimizer updates parameters.

    It keeps `states` numbers for each parameter from step to step, or, if it is `factored`, a row and a column of each
    matrix and the whole of each vector; and `counters` for each tensor, which lie in a GPU's memory only where
    `counts_on_device`. While it updates, it holds `temporary` beside them. `torch_class` is its class in `torch.optim`,
    called with `arguments`; the empty name is that of no update at all. `on_gpus` is the optimizer that torch takes for
    it on a GPU, if another one. `waits` is for a GPU's host.
    """

    states: int = 0
    factored: bool = False
    counters: int = 0
    counts_on_device: bool = False
    temporary: Temporary = no_temporary
    torch_class: str = ""
    arguments: Mapping[str, float | bool] = field(default_factory=dict)
    on_gpus: str = ""
    waits: Waits = Waits.NEVER

    def state_sizes(self, shape: _Shape) -> tuple[int, ...]:
        """How many numbers each tensor holds that it keeps of a parameter of this shape, counters aside."""
        if self.factored:
            return _factors(shape) if len(shape) > 1 else (prod(shape),)
        return (prod(shape),) * self.states

    def state_numbers(self, shapes: Iterable[_Shape]) -> int:
        """How many numbers it keeps of parameters of these shapes, counters aside."""
        return sum(size for shape in shapes for size in self.state_sizes(shape))

    @property
    def together(self) -> bool:
        """Whether its gradients are cleared all at once too: torch looks at the arguments that were typed."""
        return bool(self.arguments.get("foreach") or self.arguments.get("fused"))


_LR = {"lr": 1e-3}  # the time of a step does not depend on it


def _implementations(
    name: str, rule: UpdateRule, *, foreach: Temporary, fused: bool = False, default: bool = True
) -> dict[str, UpdateRule]:
    """An optimizer as torch has it: tensor by tensor, `-foreach`, and `-fused` where there is one.

    Which one torch takes by itself is `torch.optim.optimizer._default_to_fused_or_foreach`'s: on a GPU foreach, if that
    is the `default`, and on a CPU one tensor after the other.
    """
    arguments = {**_LR, **rule.arguments}
    found = {
        name: replace(rule, arguments=arguments, on_gpus=f"{name}-foreach" if default else ""),
        f"{name}-foreach": replace(rule, arguments={**arguments, "foreach": True}, temporary=foreach),
    }
    if fused:
        one = replace(rule, arguments={**arguments, "fused": True}, temporary=no_temporary, counts_on_device=True)
        found[f"{name}-fused"] = one
    return found


_adam_loop = partial(one_by_one, own=2, before=1)
_root_loop = partial(one_by_one, own=1, before=1)
_once = partial(all_at_once, times=1)

OPTIMIZERS: Mapping[str, UpdateRule] = {
    "none": UpdateRule(),
    **_implementations("sgd", UpdateRule(torch_class="SGD"), foreach=no_temporary, fused=True),
    **_implementations(
        "momentum",
        UpdateRule(states=1, torch_class="SGD", arguments={"momentum": 0.9}),
        foreach=no_temporary,
        fused=True,
    ),
    **_implementations(
        "adam",
        UpdateRule(states=2, counters=1, torch_class="Adam", temporary=_adam_loop),
        foreach=_once,
        fused=True,
    ),
    **_implementations(
        "adamw",
        UpdateRule(states=2, counters=1, torch_class="AdamW", temporary=_adam_loop),
        foreach=_once,
        fused=True,
    ),
    **_implementations(
        "nadam",
        UpdateRule(states=2, counters=2, torch_class="NAdam", temporary=_adam_loop),
        foreach=_once,
    ),
    **_implementations(
        "radam",
        UpdateRule(states=2, counters=1, torch_class="RAdam", temporary=partial(one_by_one, own=5, before=0)),
        foreach=_once,
    ),
    **_implementations(
        "rmsprop",
        UpdateRule(states=1, counters=1, torch_class="RMSprop", temporary=_root_loop),
        foreach=_once,
    ),
    **_implementations(
        "adagrad",
        UpdateRule(states=1, counters=1, torch_class="Adagrad", temporary=_root_loop),
        foreach=partial(all_at_once, times=2),
        fused=True,
    ),
    **_implementations(
        "adafactor",
        UpdateRule(
            factored=True, counters=1, torch_class="Adafactor", temporary=_factored_one_by_one, waits=Waits.THROUGHOUT
        ),
        foreach=_factored_at_once,
        default=False,
    ),
}
"""Every optimizer by name; what each holds for a while is that of torch 2.13, as its allocator counts it."""


def update_rule(name: str, *, on_gpu: bool = False) -> UpdateRule:
    """The rule of the optimizer `name`, as it runs `on_gpu`; raises LatteError for an unknown one."""
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    rule = OPTIMIZERS[name]
    return OPTIMIZERS[rule.on_gpus] if on_gpu and rule.on_gpus else rule


def measured_name(name: str, *, on_gpu: bool) -> str:
    """The name by which an optimizer is measured: where torch takes an implementation by itself, the plain one."""
    same = (plain for plain, rule in OPTIMIZERS.items() if on_gpu and rule.on_gpus == name)
    return next(same, name)
