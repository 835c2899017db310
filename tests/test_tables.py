"""Tables at terminals of any width: no cell is cut, and what is spared comes in the order that the table says."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import on_terminal

from latte_cli.report import Table, long_duration, write_table

TEXT = st.text(alphabet="abcdefgh-", min_size=1, max_size=45)
NUMBER = st.from_regex(r"[0-9]{1,7}\.[0-9]{1,3} ms", fullmatch=True)


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def shown(table: Table, columns: int) -> str:
    out = Screen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "xterm")
        write_table(table, out)
    return out.getvalue()


@given(
    rows=st.lists(st.tuples(TEXT, NUMBER, NUMBER, TEXT, NUMBER), min_size=1, max_size=4),
    columns=st.integers(min_value=10, max_value=120),
)
def test_no_cell_is_cut(rows: list[tuple[str, ...]], columns: int) -> None:
    text = shown(Table(columns=("name", ">a", ">b", "what", ">c"), rows=rows), columns)
    assert "…" not in text
    found = "".join(text.split())
    for row in rows:
        for number in (row[1], row[2], row[4]):
            assert number in text
    for at in (0, 3):  # a text that goes on in the next line is there letter by letter
        assert sum(map(len, (row[at] for row in rows))) <= len(found)
    letters = sorted("".join(sign for row in rows for sign in row[0] + row[3]))
    body = "".join(re.sub(r"[0-9]+\.[0-9]+ ms", "", line) for line in text.splitlines()[2:])
    assert sorted("".join(body.split())) == letters


def test_spare_columns_go_first_to_last_with_their_lines_of_the_footer() -> None:
    table = Table(
        columns=("device", ">speed", ">step", ">cost"),
        rows=[("d" * 20, "1" * 10, "2" * 10, "3" * 10)],
        footer=("speed: of samples", "step: of training"),
        spare=(">speed", ">cost"),
    )
    assert [("speed" in shown(table, at), "cost" in shown(table, at)) for at in (80, 46, 33)] == [
        (True, True),
        (False, True),
        (False, False),
    ]
    assert "speed: of samples" not in shown(table, 46)
    assert "step: of training" in shown(table, 46)


def test_a_ranking_shows_each_device_and_its_training_at_80_columns(tmp_path) -> None:
    assert on_terminal("zoo", "export", "lenet", tmp_path / "lenet.onnx").returncode == 0
    words = ("--batch-size", 8, "--device", "h200,reference,jetson-nano", "--samples", "1M", "--epochs", 90)
    done = on_terminal("estimate", tmp_path / "lenet.onnx", *words)
    assert done.returncode == 0
    table = done.text.partition("warning")[0]
    assert "…" not in table
    assert {"nvidia-h200-reference", "nvidia-jetson-nano", "training"} <= set(table.split())
    assert all(len(line) <= 80 for line in table.splitlines())


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.5, "1.50 s"), (533.0, "8.88 min"), (47953.0, "13.3 h"), (1e8, "1157 d"), (3e5, "3.47 d")]
)
def test_long_times_are_in_minutes_hours_or_days(seconds: float, text: str) -> None:
    assert long_duration(seconds) == text
