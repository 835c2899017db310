"""Waits: where the host of a device that queues its calls has to wait for it."""

from enum import StrEnum


class Waits(StrEnum):
    """When the host waits for the device: before it asks for a call, or all through it, so that both take it together.

    A CPU is its own host and never waits.
    """

    NEVER = "never"
    BEFORE = "before"
    THROUGHOUT = "throughout"
