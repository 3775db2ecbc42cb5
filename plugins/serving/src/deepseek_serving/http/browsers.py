"""What pages of other hosts make a browser send, which its user did not mean."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from deepseek_serving.http.message import Head


def loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    return address in ("localhost", "::1") or address.startswith("127.")


class Browsers:
    """Tells such requests by their headers.

    Args:
        listens: the address that the server listens on.
        hosts: names under which it is reached, beside `localhost` and addresses.
    """

    def __init__(self, listens: str, hosts: Iterable[str]) -> None:
        # Where everybody may ask, a page may too; it can't where the server is for this machine alone.
        self._names = {"localhost", *hosts} if loopback(listens) else None

    def wrong(self, head: Head) -> str:
        """Why a request is not served; empty: it is."""
        host = (head.header(b"host") or b"").decode("latin-1").lower()
        origin = (head.header(b"origin") or b"").decode("latin-1").lower()
        page = origin.partition("://")[2]
        # A proxy may have changed the one and not the other.
        own = page == host or (self._names is not None and _name(page) in self._names)
        if origin and head.method not in ("GET", "HEAD") and not own:
            return f"a page of {origin[:80]} may not ask this server"
        if self._names is not None and host and not self._known(host):
            # A name of somebody else's may lead to this machine for the moment (DNS rebinding).
            return f"this server is not known as {host[:80]} (name it in `server.hosts`)"
        return ""

    def _known(self, host: str) -> bool:
        name = _name(host)
        if self._names is not None and name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    """A host without its port."""
    return host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
