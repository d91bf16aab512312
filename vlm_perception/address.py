"""Addresses of cameras, recordings and model servers as they may be shown: without what is secret in them. No ROS."""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"
SECRETS = re.compile(
    r"[\w-]*(user|usr|login|pass|pwd|psw|token|key|auth|secret|sig|session|credential)[\w-]*\s*(=|%3d)", re.IGNORECASE
)
"""The name of a parameter whose value is nobody's business, with its equals sign."""
PAIR = re.compile(r"/[^/?]*:")
"""A user with a password in a path."""


def shown(source: str) -> str:
    """Return `source`, an address or a path, without user, password and keys, fit to be printed.

    What stands before an @ is hidden, and all that follows the first parameter with a telling name: a password may
    hold any of the characters that separate parameters. So more than the secret may be hidden, and never less.
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
    """Return `words` with every address in them as it may be shown, and so the `source` that they may be about."""
    if source:
        words = words.replace(source, shown(source))
    return re.sub(r"\S+", lambda word: shown(word[0]) if "://" in word[0] else word[0], words)


def models_shown(models: str) -> str:
    """Return a list of models with the user, password and query of every address in it hidden."""
    models = re.sub(r"(?<=://)[^\s,'\"#]*@|(?<![^\s,'\"])[^\s,'\"/@]+:[^\s,'\"/@]*@", f"{HIDDEN}@", models)
    return re.sub(r"(?<![^\s,'\"])([a-z]+://[^\s,'\"?#]*\?)[^\s,'\"#]*", rf"\1{HIDDEN}", models)
