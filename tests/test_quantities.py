import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.errors import ExitCode, LatteError
from latte_cli.quantities import bandwidth_bit_per_s, duration_s, size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("2m", 120), ("2 min", 120), ("1h", 3600), ("500ms", 0.5), ("1.5", 1.5), (" .5H ", 1800), (30, 30)],
)
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "bits"),
    [("5Mbit", 5e6), ("20 kbit/s", 2e4), ("1Gbps", 1e9), ("2.5e0", None), ("1000", 1e3), (64000, 64e3), ("5MB", None)],
)
def test_a_bandwidth_is_in_bits_with_decimal_prefixes(text, bits):
    if bits is None:
        with pytest.raises(LatteError, match="is not a bandwidth"):
            bandwidth_bit_per_s(text)
    else:
        assert bandwidth_bit_per_s(text) == pytest.approx(bits)


@pytest.mark.parametrize(
    ("text", "count"), [("2GiB", 2 << 30), ("512 MiB", 512 << 20), ("2GB", 2 * 10**9), ("4096", 4096), (1.5, 2)]
)
def test_a_size_is_in_bytes_with_decimal_or_binary_prefixes(text, count):
    assert size_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "s", "-3s", "0", "0ms", "inf", "nan", "1e3", "3 weeks", "2m30s", "9999999h", "٣s"]
)
def test_anything_else_is_a_usage_error_with_a_hint(text):
    with pytest.raises(LatteError, match="is not a duration") as caught:
        duration_s(text)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "30s" in (caught.value.hint or "")


@given(st.text(), st.sampled_from((duration_s, bandwidth_bit_per_s, size_bytes)))
def test_garbage_raises_nothing_but_our_error_on_one_line(text, parse):
    try:
        assert parse(text) > 0
    except LatteError as error:
        assert len(error.message.splitlines()) == 1
