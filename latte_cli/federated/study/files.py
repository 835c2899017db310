"""Files of a study: what was computed, under the hash of all that it depends on, written whole or not at all."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from latte_cli import documents, files
from latte_cli.documents import DocumentSource, Missing

TRAININGS, RUNS = "trainings", "runs"
"""The folders of a study."""


def configuration_key(configuration: Mapping[str, Any]) -> str:
    """The hash of a configuration of plain values."""
    return sha256(json.dumps(configuration, sort_keys=True, allow_nan=False).encode()).hexdigest()


class Files:
    """The documents in a folder, by kind and configuration."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._schema = folder / kind, f"latte.study-{kind}/1"

    def path(self, name: str) -> Path:
        """Where the document with this key is, or will be."""
        return self._folder / f"{name}.json"

    def read(self, name: str) -> dict[str, Any] | None:
        """The document with this key; None where there is none, LatteError for a file that holds another thing."""
        path = self.path(name)
        source = DocumentSource(where=f"`{path}`", fault="is damaged", hint="delete it, and it is made again")
        try:
            found = documents.load_document(path, self._schema, source)
        except Missing:
            return None
        if found["key"] != name:
            raise source.error("its key is not its name")
        return found

    def write(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a document, whole or not at all; raises LatteError where the folder cannot be written to."""
        path = self.path(name)
        content = json.dumps({"schema": self._schema, "key": name, **document}, allow_nan=False)
        files.make_folder(self._folder)
        files.write_file(path, content + "\n")
