"""The HTTP client of remote models: keys, proxies and certificates from the environment, answers of bounded size."""

from __future__ import annotations

import contextlib
import email.utils
import logging
import math
import os
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

from vlm_perception.models.base import ModelError
from vlm_perception.models.remote.endpoint import API_KEY, key_for, proxy_for
from vlm_perception.models.remote.response import Body, RefusedError, is_error, parse, reason
from vlm_perception.text import one_line

MOST_BYTES = 1 << 20
"""Most bytes of an answer that is read."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestLimits:
    """`timeout` [s] of a whole call with all its tries, `connect_timeout` [s] of each; requests `in_flight` at once."""

    timeout: float = 20.0
    connect_timeout: float = 3.0
    in_flight: int = 4

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}, expected seconds above 0")
        if self.in_flight < 1:
            raise ValueError(f"in_flight is {self.in_flight}, expected at least 1")


def connect(url: str, limits: RequestLimits) -> tuple[httpx2.AsyncClient, Callable[[str], str], dict[str, str]]:
    """Return the client for the server at `url`, a function that removes its key from a text, and facts.

    A server may repeat the key. All environment variables are read here. Raises ModelError, which names the variable,
    when one cannot be used.
    """
    key = key_for(url)
    proxy = proxy_for(url)
    context: ssl.SSLContext | None = None
    if url.startswith("https") or (proxy and proxy[0].startswith("https")):
        context = _certificates()
    try:
        client = httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})},
            timeout=httpx2.Timeout(None, connect=limits.connect_timeout),  # the whole call has its own limit
            limits=httpx2.Limits(max_connections=limits.in_flight, keepalive_expiry=60.0),  # more requests wait
            follow_redirects=False,
            trust_env=False,
            verify=context or False,
            proxy=httpx2.Proxy(proxy[0], ssl_context=context) if proxy else None,
        )
    except ImportError:
        raise ModelError(
            f"{proxy[1] if proxy else 'the proxy'} names a SOCKS proxy, for which the client lacks a part: "
            "pip install 'httpx2[socks]', or add the server to NO_PROXY if it is reached without a proxy"
        ) from None
    except (ValueError, httpx2.InvalidURL):
        raise ModelError(f"{proxy[1] if proxy else 'the proxy'} is no address of a proxy: correct it") from None
    facts = {
        "encrypted": "yes" if url.startswith("https") else "no",
        "key": f"from {API_KEY}" if key else "none",
        "proxy": f"from {proxy[1]}" if proxy else "none",
    }
    if (
        key
        and facts["encrypted"] == "no"
        and (proxy or urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1"))
    ):
        facts["key"] += ", sent in the clear"
        through = f" and through the proxy of {proxy[1]}" if proxy else ""
        _LOG.warning("%s: the key is sent in the clear%s, where others can read it: use https", url, through)
    return client, (lambda text: text.replace(key, "<key>")) if key else str, facts


def _certificates() -> ssl.SSLContext:
    """Return what verifies certificates. Raises ModelError when what the environment names cannot be used."""
    try:
        return httpx2.create_ssl_context()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        names = " or ".join(name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name))
        raise ModelError(
            f"the certificates that {names or 'this system'} names cannot be read ({one_line(str(error))}): correct "
            "it, or unset it to use the system's"
        ) from None


async def chunks_of(response: httpx2.Response, most: int) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of an answer as they come. Raises RefusedError if they are compressed or more than `most`."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):  # a few kB could become gigabytes
        raise RefusedError(f"its answer is compressed ({encoding}), which was not asked for")
    size = 0
    async for chunk in response.aiter_raw():
        if (size := size + len(chunk)) > most:
            raise RefusedError(f"its answer is longer than {most} bytes")
        if chunk:
            yield chunk


async def text_of(response: httpx2.Response) -> str:
    """Return the text of an answer. Raises RefusedError if it is compressed or longer than `MOST_BYTES`."""
    async with contextlib.aclosing(chunks_of(response, MOST_BYTES)) as chunks:
        return b"".join([chunk async for chunk in chunks]).decode("utf-8", "replace")


async def read_body(response: httpx2.Response) -> Body:
    """Return the JSON object of an answer. Raises RefusedError for an error and for anything else."""
    text = await text_of(response)
    body = parse(text)
    if isinstance(body, dict) and is_error(body):
        raise RefusedError(reason(text))
    if not isinstance(body, dict):
        raise RefusedError(f"its answer is a {type(body).__name__}, expected a JSON object")
    return body


def redirection(location: str) -> str:
    """Return the origin that a redirection leads to; the rest may hold secrets."""
    try:
        parts = urlsplit(location)
        return f"{parts.scheme}://{parts.hostname}" if parts.hostname else "another place"
    except ValueError:
        return "another place"


def retry_after(header: str) -> float:
    """Return the seconds from now that a Retry-After header asks for, by seconds or a date; 0 if it asks for none."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, IndexError):
        return 0.0


def is_untrusted(error: BaseException | None) -> bool:
    """Whether `error`, or one of its causes, says that a certificate is not trusted."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
