"""Mixtures: the mean of a step whose inputs come in several sizes, each of them in a share of the steps."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from latte_cli.estimator.diagnostics import Diagnostic
from latte_cli.estimator.records import Estimate
from latte_cli.estimator.searches import SearchCost, combined_search
from latte_cli.network import Network


def sizes_text(sizes: Sequence[tuple[str, int]]) -> str:
    """Sizes by name: `seq=64 wide=8`."""
    return " ".join(f"{name}={number}" for name, number in sizes)


@dataclass(frozen=True, kw_only=True)
class SizedStep:
    """A step at one size of each mixed dimension; `share` of 1 of all steps have these sizes."""

    sizes: tuple[tuple[str, int], ...]
    share: float
    estimate: Estimate


@dataclass(frozen=True)
class MixedStep:
    """The mean step of a mixture, in seconds; memory is that of the largest step, in bytes.

    The shares of the `steps` sum to 1. The mean's interval is the mean of the intervals' ends, as if all sizes were off
    to the same side, so that it is rather too wide.
    """

    steps: Sequence[SizedStep]

    @cached_property
    def largest(self) -> SizedStep:
        """The step that holds the most memory."""
        return max(self.steps, key=lambda each: each.estimate.memory_bytes)

    @property
    def network(self) -> Network:
        """The network at the largest size."""
        return self.largest.estimate.network

    @property
    def samples_per_step(self) -> int:
        """The samples of one update."""
        return self.largest.estimate.samples_per_step

    @property
    def memory_bytes(self) -> int:
        """The most bytes that a step holds at once."""
        return self.largest.estimate.memory_bytes

    @property
    def step_s(self) -> float:
        """The mean step."""
        return self._mean([each.estimate.step_s for each in self.steps])

    @property
    def step_low_s(self) -> float:
        """The mean of the lower ends of the 95 % intervals."""
        return self._mean([each.estimate.step_low_s for each in self.steps])

    @property
    def step_high_s(self) -> float:
        """The mean of the upper ends of the 95 % intervals."""
        return self._mean([each.estimate.step_high_s for each in self.steps])

    @property
    def forward_s(self) -> float:
        """The mean of the forward passes."""
        return self._mean([each.estimate.forward_s for each in self.steps])

    @property
    def backward_s(self) -> float:
        """The mean of the backward passes."""
        return self._mean([each.estimate.backward_s for each in self.steps])

    @property
    def update_s(self) -> float:
        """The mean of the updates."""
        return self._mean([each.estimate.update_s for each in self.steps])

    @property
    def other_s(self) -> float:
        """The mean of the losses, and of what else a step does."""
        return self._mean([each.estimate.other_s for each in self.steps])

    @property
    def energy_j(self) -> float | None:
        """The mean energy of a step, in joules; None where that of one is not known."""
        found = [each.estimate.energy_j for each in self.steps]
        known = [energy_j for energy_j in found if energy_j is not None]
        return self._mean(known) if len(known) == len(found) else None

    @cached_property
    def search(self) -> SearchCost | None:
        """What searching costs, each shape once; None where no step searches."""
        return combined_search([each.estimate.search for each in self.steps if each.estimate.search])

    @property
    def missing(self) -> list[str]:
        """The names of what could not be priced at some size."""
        return list(dict.fromkeys(name for each in self.steps for name in each.estimate.missing))

    @property
    def warnings(self) -> list[Diagnostic]:
        """What there is to say of the steps, of each kind once: of all sizes, or of the largest that it is said of."""
        found: dict[tuple[str, int], list[tuple[SizedStep, Diagnostic]]] = {}
        for each in sorted(self.steps, key=lambda each: each.estimate.memory_bytes, reverse=True):
            counts = Counter[str]()
            for warn in each.estimate.warnings:
                found.setdefault((warn.code, counts[warn.code]), []).append((each, warn))
                counts[warn.code] += 1
        return [self._of_one_size(said) for said in found.values()]

    def _of_one_size(self, said: Sequence[tuple[SizedStep, Diagnostic]]) -> Diagnostic:
        """The first of what is `said`, with its size where others are another matter."""
        step, first = said[0]
        if len(said) >= len(self.steps) and len({warn.message for _, warn in said}) == 1:
            return first
        return replace(first, message=f"{sizes_text(step.sizes)}: {first.message}")

    def _mean(self, values: Sequence[float]) -> float:
        return sum(each.share * value for each, value in zip(self.steps, values, strict=True))
