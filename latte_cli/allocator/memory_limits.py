"""Memory limits of programs: what is live at the moment of a step that exceeded the memory, as a sum over cells."""

import numpy as np

from latte_cli.allocator.cells import Cells, CostTable, Widths
from latte_cli.allocator.program import Limit
from latte_cli.estimator import Step
from latte_cli.estimator.memory import memory
from latte_cli.network import Network
from latte_cli.network.channels import resize
from latte_cli.precisions import Precision


class MemoryLimits:
    """Limits on the bytes that steps of the sub-models of `network` hold at the moments that exceeded `limit_bytes`."""

    def __init__(self, network: Network, step: Step, cells: Cells, precision: Precision, *, fused: bool) -> None:
        """`fused` is the device's, as `memory` of the estimator has it."""
        self._network, self._step, self._cells = network, step, cells
        self._precision, self._fused = precision, fused
        self._per_channel: list[dict[object, float]] = []

    def limit(self, widths: Widths, held_bytes: int, limit_bytes: int, table: CostTable) -> Limit:
        """What is live at the moment at which a step at `widths`, which needs `held_bytes`, holds most.

        It follows from the parameters and, in a straight line, from each group's width.
        """
        moments = self._moments(widths)
        peak = max(moments, key=lambda each: moments[each][1])
        flowing = moments[peak][0]
        if not self._per_channel:
            self._per_channel = [self._slopes(widths, moments, name) for name in self._cells.levels]
        parameters = table.at(self._cells.indices_of(widths)).parameters
        bytes_each = (held_bytes - flowing) / parameters
        cells, moved = bytes_each * table.amounts[:, 1], 0.0
        for place, ((name, options), slopes) in enumerate(
            zip(self._cells.levels.items(), self._per_channel, strict=True)
        ):
            cells[self._cells.single(place)] += slopes[peak] * np.array(options)
            moved += slopes[peak] * widths[name]
        return Limit(cells=cells, most=limit_bytes - flowing + moved - bytes_each * table.constant.parameters)

    def _slopes(self, widths: Widths, moments: dict[object, tuple[int, int]], name: str) -> dict[object, float]:
        """What a channel of a group adds at each moment."""
        options = self._cells.levels[name]
        other = options[0] if widths[name] != options[0] else options[-1]
        if other == widths[name]:
            return dict.fromkeys(moments, 0.0)
        changed = self._moments({**widths, name: other})
        return {each: (changed[each][0] - flowing) / (other - widths[name]) for each, (flowing, _) in moments.items()}

    def _moments(self, widths: Widths) -> dict[object, tuple[int, int]]:
        """The bytes of activations and what is temporary at each moment of a step, and all of its bytes."""
        held = memory(resize(self._network, widths), self._step, self._precision, fused=self._fused)
        return {
            (each.name, each.phase): (each.activations_bytes + each.temporary_bytes, each.live_bytes)
            for each in sorted(held.timeline, key=lambda each: each.live_bytes)
        }
