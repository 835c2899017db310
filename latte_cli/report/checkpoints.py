"""Checkpointed regions: where to put `torch.utils.checkpoint`, and what each of them saves and costs."""

from collections.abc import Iterator
from typing import Any

from latte_cli.estimator import Estimate, savings
from latte_cli.report import duration, size


def checkpoint_entries(estimate: Estimate) -> list[dict[str, Any]]:
    """The regions as the document of an estimate has them."""
    return [
        {
            "name": each.region.name,
            "first": each.region.nodes[0],
            "last": each.region.nodes[-1],
            "by_model": each.own,
            "saved_bytes": each.saved_bytes,
            "extra_s": each.extra_s,
            "call_s": each.call_s,
        }
        for each in savings(estimate)
    ]


def checkpoint_lines(estimate: Estimate) -> Iterator[str]:
    """A line for each region, for people."""
    found = savings(estimate)
    if found:
        total_s, calls_s = sum(each.extra_s for each in found), [each.call_s or 0.0 for each in found]
        yield f"`torch.utils.checkpoint` takes {duration(total_s)} more{_of_which(sum(calls_s))}:"
    for each in found:
        by = " (the model does so itself)" if each.own else ""
        more = f"{duration(each.extra_s)} more{_of_which(each.call_s or 0.0)}"
        yield f"  {each.region.name}: {size(each.saved_bytes)} less, {more}{by}"


def regions_text(estimate: Estimate) -> str:
    """The regions by name, for a line among others; empty without any."""
    return ", ".join(each.region.name for each in savings(estimate))


def _of_which(calls_s: float) -> str:
    return f" ({duration(calls_s)} of it for the call itself)" if calls_s else ""
