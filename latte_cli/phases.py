"""The phases of a training step, in a separate module so that commands which only name them load no layers."""

from enum import StrEnum


class Phase(StrEnum):
    """A part of a training step; a layer without a split backward has the one phase `backward`."""

    FORWARD = "forward"
    BACKWARD_DATA = "backward_data"
    BACKWARD_FILTER = "backward_filter"
    BACKWARD = "backward"
    UPDATE = "update"
