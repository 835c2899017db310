"""What comes from outside, made fit to be shown: control characters become visible, secrets are blanked.

Cells of CSV files are no formulas either.
"""

import re
from collections.abc import Collection
from itertools import islice
from unicodedata import category
from urllib.parse import quote, quote_plus, unquote, unquote_plus

BLANK = "***"
"""Marks what is not shown."""

_ENDS = r"\s`'\""  # of an address in a text
# The user info runs to the last @: a secret that is not percent-encoded may hold anything (but it stops
# before an address that is blanked already). `Path` makes :/ of ://.
_ADDRESS = re.compile(
    rf"(?P<start>:/+)(?P<user>\*{{3}}@|(?:(?!:/+\*{{3}}@).){{0,4096}}@|[^/?#{_ENDS}]*%40)?"
    rf"(?P<host>[^/?#{_ENDS}]*)(?P<path>[^?{_ENDS}]*)(?P<query>\?[^{_ENDS}]*)?",
    re.DOTALL,
)
_ENCODED = re.compile(rf"(%3A(?:%2F|/)+)[^{_ENDS}]+", re.IGNORECASE)
# An address with a typo is none, and may hold a secret all the same.
_USER_INFO = re.compile(rf"[^/:@{_ENDS}]+:[^/@{_ENDS}]+@")
_VALUE = re.compile(
    rf"((?:secret|access|session|account|shared|api|sas|sig|auth|pass|token)[a-z_-]*=)(?!\*{{3}})[^&;{_ENDS}]+",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::\d*)?[:,;.)]*")  # the last are a sentence's
# What may be told of a query; the value of any other name may be a secret.
_HARMLESS = re.compile(
    r"(?:region|scheme|allow_bucket_creation|allow_bucket_deletion|replication|buffer_size|use_mmap)=[A-Za-z0-9-]*"
    r"|endpoint_override=(?:https?(?::|%3A)(?:/|%2F){2})?[A-Za-z0-9._-]*(?:(?::|%3A)(?:[0-9]*|port))?|"
)
_NAME = re.compile(r"[a-z]+(?:[_-][a-z]+)*")
_LEAST_PIECE = 3  # letters of a piece of a secret: fewer stand in any text


def printable(text: str) -> str:
    r"""`text` as one line for people: without secrets (see `without_secrets`), and an escape sequence as `\x1b`.

    Ends of lines, marks that turn the direction of writing and halves of characters become visible in the same way.
    """
    shown = without_secrets(text)
    return shown if shown.isprintable() else "".join(map(_visible, shown))


_FEW = 3  # texts that a line has room for


def few(texts: Collection[str]) -> str:
    """The first three of `texts`, and how many more there are."""
    more = f" and {len(texts) - _FEW} more" if len(texts) > _FEW else ""
    return ", ".join(islice(texts, _FEW)) + more


def few_names(names: Collection[str]) -> str:
    """The first three of `names` in backticks, and how many more there are."""
    return few([f"`{name}`" for name in names])


_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
# Spreadsheets take the wide signs for the plain ones, and in some countries split lines at semicolons.
_FORMULA = re.compile(rf"(^|;)(\s*)(?=[=+@\-\uff1d\uff0b\uff20\uff0d])(?!{_NUMBER}(?:[ x]{_NUMBER})*\s*(?:;|$))")


def csv_cell(text: str) -> str:
    """`text` as a cell of a CSV file: printable, with an apostrophe before what a spreadsheet takes for a formula.

    So says OWASP's "CSV Injection". Numbers, and lists of them such as `-1 2` and `-1x2`, stay as they are.
    """
    return _FORMULA.sub(r"\1\2'", printable(text))


_LONGEST_WORD, _LONGEST_LINE = 200, 2000  # chosen: a path or an address fits, and a screen of 80 columns
_CUT = "\N{HORIZONTAL ELLIPSIS}"


def without_middle(line: str) -> str:
    """`line` without the middle of words and without the end of lines that no one reads: both may be megabytes."""
    if len(line) <= _LONGEST_WORD:
        return line
    half = _LONGEST_WORD // 2 - 1
    words = re.sub(rf"\S{{{_LONGEST_WORD + 1},}}", lambda word: f"{word[0][:half]}{_CUT}{word[0][-half:]}", line)
    return words if len(words) <= _LONGEST_LINE else words[: _LONGEST_LINE - 1] + _CUT


def _visible(sign: str) -> str:
    if sign.isprintable() or category(sign) == "Zs":
        return sign
    return sign.encode("unicode_escape").decode("ascii")


def without_secrets(text: str) -> str:
    """`text` with the user info and the query's values of every address in it blanked; what looks like one too."""
    if "%3" in text:
        text = _ENCODED.sub(rf"\1{BLANK}", text)
    if ":/" in text:
        text = _ADDRESS.sub(_blank, text)
    if "@" in text:
        text = _USER_INFO.sub(f"{BLANK}@", text)
    return _VALUE.sub(rf"\1{BLANK}", text) if "=" in text else text


def _blank(found: re.Match[str]) -> str:
    if _is_unclear(found):
        return found["start"] + BLANK
    user = f"{BLANK}@" if found["user"] else ""
    pairs = "&".join(map(_blanked_pair, _pairs(found)))
    return f"{found['start']}{user}{found['host']}{found['path']}{'?' if found['query'] else ''}{pairs}"


def _is_unclear(found: re.Match[str]) -> bool:
    """Whether a secret may reach beyond the user info: an @ after a ?, or `key:secret` without an @, or a fragment."""
    user = found["user"] or "@"
    return "?" in user or not user.endswith("@") or "#" in found["path"] or not _HOST.fullmatch(found["host"])


def _pairs(found: re.Match[str]) -> list[str]:
    return (found["query"] or "?")[1:].split("&")


def _blanked_pair(pair: str) -> str:
    if _HARMLESS.fullmatch(pair):
        return pair
    name, equals, _ = pair.partition("=")
    return f"{name}={BLANK}" if equals and _NAME.fullmatch(name) else BLANK


def address(uri: str) -> str:
    """`uri`, which is one address whatever signs it holds, with its secrets blanked."""
    scheme, _, rest = _whole(uri).partition("://")
    return (scheme if _SCHEME.fullmatch(scheme) else BLANK) + without_secrets(f"://{rest}")


def _whole(uri: str) -> str:
    """`uri` with the signs encoded that would end it in a text."""
    return re.sub(rf"[{_ENDS}]", lambda sign: quote(sign[0], errors="replace"), uri)


def secrets(uri: str) -> frozenset[str]:
    """What `address` blanks of `uri`, whole and in pieces, percent-encoded and not, in lower case."""
    scheme, _, rest = _whole(uri).partition("://")
    found = _ADDRESS.match(f"://{rest}")
    hidden = [] if _SCHEME.fullmatch(scheme) else [scheme]
    if found and _is_unclear(found):
        hidden.append(rest)
    elif found:
        hidden.append((found["user"] or "").removesuffix("@"))
        hidden += [pair.removeprefix(_blanked_pair(pair).removesuffix(BLANK)) for pair in _pairs(found)]
    forms = {form for text in hidden for each in (text, unquote(text), unquote_plus(text)) for form in _forms(each)}
    pieces = {piece for form in forms for piece in re.split(r"[^\w.+=~-]", form)}
    return frozenset(each.lower() for each in forms | pieces if len(each) >= _LEAST_PIECE)


def _forms(text: str) -> tuple[str, ...]:
    return text, quote(text, safe="", errors="replace"), quote_plus(text, errors="replace")
