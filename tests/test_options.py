import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.cli.options import parse_duration
from latte_cli.errors import ExitCode, LatteError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("2m", 120), ("2 min", 120), ("1h", 3600), ("500ms", 0.5), ("1.5", 1.5), (" .5H ", 1800), (30, 30)],
)
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-3s", "0", "0ms", "inf", "nan", "1e3", "3 weeks", "2m30s", "9999999h", "٣s"]
)
def test_anything_else_is_a_usage_error_with_a_hint(text):
    with pytest.raises(LatteError, match="is not a duration") as caught:
        parse_duration(text)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "30s" in (caught.value.hint or "")


@given(st.text())
def test_garbage_raises_nothing_but_our_error_on_one_line(text):
    try:
        assert parse_duration(text) > 0
    except LatteError as error:
        assert len(error.message.splitlines()) == 1
