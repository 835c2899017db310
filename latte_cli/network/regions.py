"""Regions: parts of a network whose forward pass may run again in the backward pass instead of being kept."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Region:
    """The consecutive nodes, by name, that one call of `torch.utils.checkpoint.checkpoint` runs.

    `name` is what a user calls them: a submodule's path, a slice of an `nn.Sequential` (`features[2:5]`), or the first
    and the last node of a file (`conv1..relu4`).
    """

    name: str
    nodes: tuple[str, ...]
