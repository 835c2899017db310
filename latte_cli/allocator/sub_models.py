"""Sub-models: what a device may train of a network, and the catalogue of them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from latte_cli.network import Network
from latte_cli.network.channels import groups_to_cut, resize
from latte_cli.network.depth import dropped_blocks, without


@dataclass(frozen=True, kw_only=True)
class SubModel:
    """A part of a network: `widths` channels of each channel group, without the residual blocks `dropped`.

    `width` and `depth` are the shares that an entry of a catalogue was made from; `width` is None where each group
    has a separate width. The groups are those of the whole network; one that is not named stays whole.
    """

    id: str
    widths: tuple[tuple[str, int], ...]
    parameters: int
    width: float | None = None
    depth: float = 1.0
    dropped: tuple[str, ...] = ()

    def of(self, network: Network) -> Network:
        """The part of `network`; raises LatteError where it has not these groups or blocks."""
        return without(resize(network, dict(self.widths)) if self.widths else network, self.dropped)


def catalogue(network: Network, widths: Iterable[float], depths: Iterable[float] = (1.0,)) -> tuple[SubModel, ...]:
    """The sub-models of `network` of these uniform widths and depths, largest first; equal ones are there once.

    Raises LatteError as `groups_to_cut`, `ChannelGroup.width` and `depth.dropped` do; the width 1 alone suits every
    network.
    """
    shares = sorted(set(widths), reverse=True)
    groups = groups_to_cut(network) if any(width < 1 for width in shares) else ()
    found: dict[tuple[object, ...], SubModel] = {}
    for depth in sorted(set(depths), reverse=True):
        left_out = dropped_blocks(network, depth)
        for width in shares:
            kept = tuple((group.name, group.width(width)) for group in groups)
            if (kept, left_out) in found:
                continue
            name = f"w{width:.12g}" + (f"-d{depth:.12g}" if left_out else "")
            made = SubModel(id=name, widths=kept, parameters=0, width=width, depth=depth, dropped=left_out)
            found[kept, left_out] = _with_parameters(made, network)
    return tuple(sorted(found.values(), key=lambda each: -each.parameters))


def _with_parameters(sub_model: SubModel, network: Network) -> SubModel:
    return replace(sub_model, parameters=sub_model.of(network).parameters)
