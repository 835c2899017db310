"""Where a model's file says that data lie: inside of its folder, or nowhere."""

from pathlib import Path

from latte_cli.errors import LatteError

_LONGEST = 1024


def external_file(model: Path, location: str) -> Path:
    """The file that `location`, as an ONNX file has it, names next to `model`.

    Raises LatteError for a location that is absolute or leads out of the model's folder, by `..` or through a link, and
    for what is not a file.
    """
    folder = model.parent.resolve()
    shown = location[:80]
    hint = "data of a model lie in the folder of its file"
    if not location or len(location) > _LONGEST or "\0" in location:
        raise LatteError(f"`{model.name}` names no file for its data", hint=hint)
    parts = location.replace("\\", "/").split("/")
    if ".." in parts or Path(location).is_absolute() or location.startswith("/") or ":" in parts[0]:
        raise LatteError(f"`{model.name}` has data outside of its folder, in `{shown}`", hint=hint)
    found = (folder / location).resolve()
    if not found.is_relative_to(folder):
        raise LatteError(f"`{model.name}` has data outside of its folder, in `{shown}`", hint=hint)
    if not found.is_file():
        raise LatteError(f"the data of `{model.name}` are not there: `{shown}`", hint="copy them beside the model")
    return found
