"""Files that are no models that LATTE reads, told by how they begin."""

from collections.abc import Sequence

FIRST_BYTES = 512
"""How much of a file `foreign_kind` needs."""

SIGNATURES: Sequence[tuple[int, bytes, str]] = (
    (0, b"\x89PNG\r\n", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF\r\n", "an HDF5 file, as Keras writes for its models"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"GGUF", "a GGUF file, which holds weights and no graph"),
    (8, b'{"', "a safetensors file, which holds weights and no graph"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"\x7fELF", "a program or library"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"BZh", "packed by bzip2"),
    (0, b"\xfd7zXZ", "packed by xz"),
    (0, b"\x28\xb5\x2f\xfd", "packed by zstd"),
)
"""Where and how a file of each kind begins, as its format's specification says; an ONNX file begins with a number."""


def foreign_kind(start: bytes) -> str | None:
    """What a file that begins with `start` is, such as `a PNG picture`; None for what may be a model."""
    for at, signature, kind in SIGNATURES:
        if start[at : at + len(signature)] == signature:
            return kind
    return "a text" if _is_text(start) else None


def _is_text(start: bytes) -> bool:
    """Whether it is UTF-8 with letters and no control characters but blanks; its last character may be cut."""
    try:
        text = start.decode()
    except UnicodeDecodeError as exc:
        if exc.start < len(start) - 3:
            return False
        text = start[: exc.start].decode()
    return any(map(str.isalpha, text)) and all(sign.isprintable() or sign.isspace() for sign in text)
