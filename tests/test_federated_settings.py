import pytest

from latte_cli.errors import LatteError
from latte_cli.federated.settings import FederationSettings, settings


def test_what_is_not_said_is_as_by_default():
    assert settings({}) == settings({"round-duration": "", "output": ""}) == FederationSettings()


def test_quantities_and_names_are_read():
    found = settings({"round-duration": "2m", "widths": "1, 0.5", "method": "least-trained", "up": "5Mbit", "alpha": 1})
    assert (found.round_duration_s, found.widths, found.up_bit_per_s, found.alpha) == (120, (1.0, 0.5), 5e6, 1.0)
    assert (found.method, found.optimizer, found.recipe.momentum) == ("least-trained", "momentum", 0.9)
    assert settings({"momentum": 0.0}).optimizer == "sgd"


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        ({"round": 3}, "unknown setting `round`", "did you mean `rounds`?"),
        ({"rounds": 0}, "setting `rounds`: `0` is not what it can be", "a whole number from 1 to 1000000000"),
        ({"rounds": True}, "setting `rounds`: `True` is not", "a whole number"),
        ({"rounds": "3"}, "setting `rounds`: `3` is not", "a whole number"),
        ({"rounds": 2.0}, "setting `rounds`: `2.0` is not", "a whole number"),
        ({"learning-rate": -1}, "setting `learning-rate`: `-1` is not", "a number from 0 to 1000"),
        ({"learning-rate": float("nan")}, "setting `learning-rate`: `nan` is not", "a number from 0 to 1000"),
        ({"held-out": 1}, "setting `held-out`: `1` is not", "a number from 0 to 0.9"),
        ({"masked": "yes"}, "setting `masked`: `yes` is neither true nor false", "without quotes"),
        ({"method": "nestd"}, "setting `method`: unknown method `nestd`", "did you mean `nested`?"),
        ({"rule": "mean"}, "setting `rule`: unknown rule `mean`", "one of: examples, holders"),
        ({"partition": "iid "}, "setting `partition`: unknown partition", "did you mean `iid`?"),
        ({"widths": "1;0.5"}, "setting `widths`: `1;0.5` is no list of shares", '"1,0.75,0.5"'),
        ({"widths": "1,2"}, "setting `widths`: `1,2` has a share out of range", "over 0 and at most 1"),
        ({"widths": "nan"}, "setting `widths`: `nan` has a share out of range", "over 0 and at most 1"),
        ({"round-duration": "soon"}, "setting `round-duration`: `soon` is not a duration", "`30s`"),
        ({"up": "-1"}, "setting `up`: `-1` is not a bandwidth", "`5Mbit`"),
        ({"model": 3}, "setting `model`: `3` is no text", "in quotes"),
    ],
)
def test_a_setting_that_cannot_be_is_named(config, message, hint):
    with pytest.raises(LatteError) as error:
        settings(config)
    assert message in error.value.message
    assert hint in error.value.hint
