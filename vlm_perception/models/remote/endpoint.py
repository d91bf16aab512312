"""The address of a model server, its API key, and the proxy on the way to it. A key goes to its own server only."""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.request
from typing import NamedTuple
from urllib.parse import urlsplit

from vlm_perception.models.base import ModelError

API_KEY = "VLM_PERCEPTION_API_KEY"
"""Environment variable with the keys of servers: `https://gpu.local:8000=KEY`, several with blanks between them."""
PORTS = {"http": 80, "https": 443}
PROXIES = ("http", "https", "socks5", "socks5h")
_BARE = re.compile(r"([^/\s]*@)?([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}(?=[/#?]|$)")
_PASTED = re.compile(r"/+(chat/completions|completions|responses|models|systemone|decisions)/*$")


def is_address(name: str) -> bool:
    """Whether the `name` of a model is the address of a server.

    An address has a ://, or it is a host with a port (gpu.local:8000) and no folder has this name.
    """
    if "://" in name or name.lower().startswith(("http:", "https:")):
        return True
    return bool(_BARE.match(name)) and not os.path.isdir(name)


class Endpoint(NamedTuple):
    """The `url` of a server and the name of the `model` there; an empty name means the server's only model."""

    url: str
    model: str


def read_endpoint(name: str) -> Endpoint:
    """Split `http://host:8000#model` into the server's address and the model's name.

    http:// may be left out. A path behind /v1, such as /chat/completions, is ignored. Raises ModelError when `name` is
    no address of a server, or holds a secret.
    """
    url = name if "://" in name or not _BARE.match(name) else f"http://{name}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        good = parts.scheme in PORTS and url.isprintable() and " " not in url
    except ValueError:
        host, good = None, False
    if not host or not good:
        raise ModelError("the model's address cannot be read, expected e.g. http://host:8000 or http://host:8000#model")
    if parts.username is not None or parts.password is not None or parts.query:
        # The address is not repeated: it may hold a secret.
        raise ModelError(
            f"the address of the model on {host} holds a user, a password or a query, expected e.g. "
            f"http://host:8000#model; a key belongs into the environment variable {API_KEY}"
        )
    path = _PASTED.sub("", parts.path).rstrip("/").removesuffix("/v1").rstrip("/")
    return Endpoint(f"{parts.scheme}://{parts.netloc}{path}", parts.fragment)


def origin(url: str) -> str:
    """Return `https://host:8000` of `url`, which identifies a server. Raises ValueError when it has none."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname or parts.username is not None:
        raise ValueError("no address of a server")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = parts.port or PORTS[parts.scheme]
    return f"{parts.scheme}://{host}" + (f":{port}" if port != PORTS[parts.scheme] else "")


def key_for(url: str) -> str | None:
    """Return the key for the server at `url` from the environment, else None. Raises ModelError; it shows no key."""
    found, here = None, origin(url)
    for entry in os.environ.get(API_KEY, "").split():
        where, _, key = entry.partition("=")
        try:
            its = origin(where)
        except ValueError:
            raise ModelError(
                f"{API_KEY} does not say which server its key is for, or has a blank in a key: set it to "
                f"{here}=KEY (several with blanks between them); a key goes to no other server"
            ) from None
        if not re.fullmatch(r"[!#-&(-\[\]-~]+", key):  # printable ASCII, without quotes and \, which repr() escapes
            raise ModelError(f"a key in {API_KEY} is empty or has characters that no key has: copy the whole key")
        if its == here:
            found = key
    return found


def proxy_for(url: str) -> tuple[str, str] | None:
    """Return the proxy on the way to `url` and the environment variable that names it; None without a proxy.

    NO_PROXY may hold names of hosts, endings of names (.local), addresses, networks (10.0.0.0/8) or *. Raises
    ModelError for a proxy that cannot be used.
    """
    scheme, host, there = urlsplit(url).scheme, urlsplit(url).hostname or "", urlsplit(url).netloc
    proxies = urllib.request.getproxies_environment()
    kind = scheme if proxies.get(scheme) else "all"
    proxy = proxies.get(kind, "")
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    if not proxy or bypass(host, proxies) or bypass(there, proxies) or _in_network(host, proxies.get("no", "")):
        return None
    variable = f"{kind}_proxy" if os.environ.get(f"{kind}_proxy") else f"{kind}_proxy".upper()
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    remedy = f"correct {variable}, or add {host} to NO_PROXY if it is reached without a proxy"
    try:
        parts = urlsplit(proxy)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ModelError(f"{variable} is no address of a proxy: {remedy}")
    if parts.scheme not in PROXIES:
        kinds = ", ".join(f"{kind}://" for kind in PROXIES)
        raise ModelError(f"{variable} names a proxy of the kind {parts.scheme}://, expected one of {kinds}: {remedy}")
    return proxy, variable


def _in_network(host: str, networks: str) -> bool:
    for network in networks.split(","):
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(network.strip(), strict=False):
                return True
        except ValueError:  # a name
            continue
    return False
