"""Where the profiles and models that come with the package lie: in a source checkout, or in an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_profiles() -> Path | None:
    """The read-only store of reference profiles; None where the package came without."""
    return _shipped_folder("profiles")


def shipped_models() -> Path | None:
    """The folder of trained selectors and estimators; None where the package came without."""
    return _shipped_folder("models")


def _shipped_folder(name: str) -> Path | None:
    installed, checkout = _PACKAGE / name, _PACKAGE.parent / name
    if installed.is_dir():
        return installed
    return checkout if checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file() else None
