"""Addresses of cameras, recordings and model servers without their passwords and keys, fit to be shown. No ROS."""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"
SECRETS = re.compile(
    r"[\w-]*(user|usr|login|pass|pwd|psw|token|key|auth|secret|sig|session|credential)[\w-]*\s*(=|%3d)", re.IGNORECASE
)
"""Name of a parameter whose value is secret, with its equals sign."""
PAIR = re.compile(r"/[^/?]*:")
"""A user and a colon in a path, where a password follows."""


def shown(source: str) -> str:
    """Return `source`, an address or a path, without user, password and keys, as printable text.

    All text before an @ is hidden, and all text after the first parameter with a secret's name: a password may contain
    any character that separates parameters. So more than the secret may be hidden, and never less.
    """
    scheme, separator, rest = source.partition("://")
    if not separator:
        scheme, rest = "", source
    if separator and (pair := PAIR.search(rest.rpartition("@")[2])):
        rest = rest[: len(rest) - len(pair.string) + pair.start()] + "/" + HIDDEN
    if secret := SECRETS.search(rest):
        rest = rest[: secret.end()] + HIDDEN
    elif SECRETS.search(unquote(unquote(rest))):
        rest = rest.partition("/")[0] + "/" + HIDDEN
    before, at, after = rest.rpartition("@")
    if at and (separator or ":" in before):
        rest = HIDDEN + at + after
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in scheme + separator + rest)


def without_secrets(words: str, source: str = "") -> str:
    """Return `words` with `shown` applied to every address in them, and to the `source` if they contain it."""
    if source:
        words = words.replace(source, shown(source))
    return re.sub(r"\S+", lambda word: shown(word[0]) if "://" in word[0] else word[0], words)


def models_shown(models: str) -> str:
    """Return the list `models` with the user, password and query of every address hidden."""
    models = re.sub(r"(?<=://)[^\s,'\"#]*@|(?<![^\s,'\"])[^\s,'\"/@]+:[^\s,'\"/@]*@", f"{HIDDEN}@", models)
    return re.sub(r"(?<![^\s,'\"])([a-z]+://[^\s,'\"?#]*\?)[^\s,'\"#]*", rf"\1{HIDDEN}", models)
