"""What pages of other hosts make a browser send, which its user did not mean."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from deepseek_serving.http.message import Head

_LOCAL = ("127.0.0.1", "::1", "localhost")


class Browsers:
    """Tells such requests by their headers.

    Args:
        listens: the address that the server listens on.
        hosts: names under which it is reached, beside `localhost` and addresses.
    """

    def __init__(self, listens: str, hosts: Iterable[str]) -> None:
        # Where everybody may ask, a page may too; it can't where the server is for this machine alone.
        self._names = {"localhost", *hosts} if listens in _LOCAL else None

    def wrong(self, head: Head) -> str:
        """Why a request is not served; empty: it is."""
        host = (head.header(b"host") or b"").decode("latin-1").lower()
        origin = (head.header(b"origin") or b"").decode("latin-1").lower()
        if origin and head.method not in ("GET", "HEAD") and origin.partition("://")[2] != host:
            return f"a page of {origin[:80]} may not ask this server"
        if self._names is not None and host and not self._known(host):
            # A name of somebody else's may lead to this machine for the moment (DNS rebinding).
            return f"this server is not known as {host[:80]} (name it in `server.hosts`)"
        return ""

    def _known(self, host: str) -> bool:
        name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        if self._names is not None and name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
