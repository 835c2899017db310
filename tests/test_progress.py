"""Progress bars: the time left is within the budget, and a line holds all of it."""

import re

import pytest
from terminal import on_terminal

from latte_cli.cli.progress import fit_texts, seconds_left, share_done

TITLES = (
    "fitting",
    "profiling cpu",
    "looking for the shortest rounds",
    "a title that is longer than a line of 80 columns" * 2,
)


@pytest.mark.parametrize(
    ("by_rate_s", "elapsed_s", "budget_s", "left_s"),
    [
        (840.0, 5.0, 20.0, 15.0),
        (3.0, 5.0, 20.0, 3.0),
        (None, 5.0, 20.0, 15.0),
        (840.0, 5.0, None, 840.0),
        (None, 5.0, None, None),
        (840.0, 25.0, 20.0, 0.0),
    ],
)
def test_the_time_left_is_at_most_what_the_budget_leaves(by_rate_s, elapsed_s, budget_s, left_s) -> None:
    assert seconds_left(by_rate_s, elapsed_s, budget_s) == left_s


def test_the_bar_counts_towards_what_ends_first() -> None:
    assert share_done(10, 1000, 10.0, 20.0) == 0.5
    assert share_done(900, 1000, 10.0, 20.0) == 0.9
    assert share_done(10, 1000, 30.0, 20.0) == 1.0
    assert share_done(10, 1000, 10.0, None) == 0.01
    assert share_done(10, None, 10.0, None) is None


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("width", [40, 80, 99, 100, 200])
def test_titles_and_labels_leave_room_for_the_rest(title: str, width: int) -> None:
    shown, label = fit_texts(title, "convolution backward_filter", 12345, width)
    beside = 20 + 2 * 5 + 1 + (20 if width >= 100 else 10)
    assert len(shown) + len(label) + beside <= max(width, 12 + beside)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_bar_on_a_terminal_tells_all_of_it_on_one_line(columns: int) -> None:
    code = (
        "from latte_cli.cli import console\n"
        "with console.progress('profiling cpu', 12345, budget_s=20) as bar:\n"
        "    bar.advance(1, 'convolution forward')\n"
        "    bar.advance(3, 'convolution backward_filter')\n"
    )
    text = on_terminal("-c", code, program="python", columns=columns).text
    bars = [line.strip() for line in re.split(r"[\r\n]", text) if "profiling cpu" in line]
    assert bars
    assert all(len(line) <= columns for line in bars)
    found = [re.search(r" +\d+/12345 .*0:00:(\d\d)", line) for line in bars]
    assert all(each and int(each[1]) <= 20 for each in found), bars


def test_a_bar_that_counts_nothing_shows_no_count() -> None:
    code = (
        "import time\n"
        "from latte_cli.cli import console\n"
        "with console.progress('opening the device', None):\n"
        "    time.sleep(0.2)\n"
        "with console.progress('importing', None) as bar:\n"
        "    bar.advance(7)\n"
    )
    text = on_terminal("-c", code, program="python").text
    assert "opening the device" in text
    lines = re.split(r"[\r\n]", text)
    assert not any("0/?" in line for line in lines if "opening" in line)
    assert any("7/?" in line for line in lines if "importing" in line)
