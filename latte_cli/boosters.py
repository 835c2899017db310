"""Boosters: XGBoost's own files, read without trusting them."""

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=32)
def loaded(content: bytes, features: int | None = None) -> Any:
    """The booster that XGBoost wrote as `content`; raises ValueError for what is none, or has other `features`.

    The same object for the same arguments: it is to predict with, not to be trained further.
    """
    import xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as exc:
        raise ValueError("unreadable trees") from exc
    if features is not None and booster.num_features() != features:
        raise ValueError("trees of other features")
    return booster
