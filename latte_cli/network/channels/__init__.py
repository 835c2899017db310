"""Channels: which of them go together, the network with fewer of them, and where those lie in its parameters."""

from latte_cli.network.channels.groups import ChannelGroup
from latte_cli.network.channels.importance import importance
from latte_cli.network.channels.positions import Indices, Positions, positions
from latte_cli.network.channels.resizing import (
    Resizing,
    channel_groups,
    groups_to_cut,
    kept_whole,
    resize,
    resizing_of,
    sub_model,
)

__all__ = [
    "ChannelGroup",
    "Indices",
    "Positions",
    "Resizing",
    "channel_groups",
    "groups_to_cut",
    "importance",
    "kept_whole",
    "positions",
    "resize",
    "resizing_of",
    "sub_model",
]
