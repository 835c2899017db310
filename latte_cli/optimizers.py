"""Optimizers: what each keeps of a parameter, and how torch makes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from latte_cli.errors import unknown


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """How an optimizer updates parameters.

    It keeps `states` numbers for each parameter from step to step. While it updates, it holds the size of the largest
    tensor of parameters `temporaries` times beside them. `torch_class` is its class in `torch.optim`, called with
    `arguments`; the empty name is that of no update at all.
    """

    states: int = 0
    temporaries: int = 0
    torch_class: str = ""
    arguments: Mapping[str, float] = field(default_factory=dict)


_LR = {"lr": 1e-3}  # the time of a step does not depend on it

OPTIMIZERS: Mapping[str, UpdateRule] = {
    "none": UpdateRule(),
    "sgd": UpdateRule(torch_class="SGD", arguments=_LR),
    "momentum": UpdateRule(states=1, torch_class="SGD", arguments={**_LR, "momentum": 0.9}),
    "adam": UpdateRule(states=2, temporaries=2, torch_class="Adam", arguments=_LR),
    "adamw": UpdateRule(states=2, temporaries=2, torch_class="AdamW", arguments=_LR),
}
"""Every optimizer by name."""


def update_rule(name: str) -> UpdateRule:
    """The rule of the optimizer `name`; raises LatteError, with a near match, where there is none."""
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]
