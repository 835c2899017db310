"""Figures that are rounded to one side."""

from hypothesis import given
from hypothesis import strategies as st

from latte_cli.report import duration_at_most, percent_at_least

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@given(st.floats(1e-8, 1e6))
def test_what_ends_by_a_duration_ends_by_what_is_shown(seconds):
    number, unit = duration_at_most(seconds).split()
    shown = float(number) * UNITS[unit]
    assert seconds * (1 - 1e-6) <= shown <= seconds * 1.02


@given(st.floats(0, 1))
def test_a_share_is_no_less_than_what_is_shown(share):
    shown = float(percent_at_least(share).removesuffix(" %")) / 100
    assert shown - 1e-8 <= share < shown + 0.0011
