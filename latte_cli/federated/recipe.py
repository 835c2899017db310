"""Recipe: how a device trains, and how good the network is after it; without torch, which prices do not need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

GoOn: TypeAlias = Callable[[int], bool]
"""Whether a device takes another step, after so many."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a device trains: `epochs` over its examples by SGD.

    `masked` takes the scores of classes that the device has no example of for 0, and `scaled` divides what a layer
    with fewer channels returns by the share of channels it kept (both from HeteroFL, Diao et al., 2021). `proximal` is
    the factor mu of the term mu / 2 · ||w - w0||² of the loss, where w0 are the parameters that training began with
    (FedProx, Li et al., 2020, "Federated Optimization in Heterogeneous Networks").
    """

    epochs: int = 1
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    masked: bool = False
    scaled: bool = False
    proximal: float = 0.0

    @property
    def optimizer(self) -> str:
        """The optimizer's name."""
        return "momentum" if self.momentum else "sgd"


@dataclass(frozen=True, kw_only=True)
class NetworkScore:
    """How good a network is: the share of examples it gets right, and its mean loss.

    `by_class` is the share of each class, where it was looked at.
    """

    accuracy: float
    loss: float
    by_class: Mapping[int, float] = field(default_factory=dict)
