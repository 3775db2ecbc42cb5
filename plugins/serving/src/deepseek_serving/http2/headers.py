"""Header blocks: what a client's say, found once for those that come again; and those that a server sends.

Source: RFC 7541 (HPACK), RFC 9113, section 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, cast

import hpack
from hpack.table import HeaderTable

from deepseek_serving.http2.frames import COMPRESSION_ERROR, Http2Error

#: Header names and values, names in lower case.
Headers = list[tuple[bytes, bytes]]
Seen = TypeVar("Seen")

#: Blocks that are known of a connection, and bytes of the longest.
_MOST, _LONGEST = 64, 1024
#: What belongs to a connection, not to a request.
_HOP = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_NEEDED = frozenset((b":method", b":scheme", b":path"))


class _Table(HeaderTable):
    """A table that counts its changes: until the next, a block that comes again says the same."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return int(self._maxsize)

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.changes += 1
        HeaderTable.maxsize.__set__(self, newmax)  # type: ignore[attr-defined]


class HeaderReader(Generic[Seen]):
    """Reads the blocks of one connection.

    Args:
        limit: bytes of a block's headers, unpacked.
        look: what to make of headers; given back for every block that says the same.
    """

    def __init__(self, limit: int, look: Callable[[Headers], Seen]) -> None:
        self._look = look
        self._table = _Table()
        self._decoder = hpack.Decoder(limit)
        self._decoder.header_table = self._table
        self._known: dict[bytes, Seen] = {}
        self._changes = 0

    def read(self, block: bytes) -> Seen:
        """What was made of the headers of a block. Raises Http2Error."""
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._changes
        seen = self._look(self.plain(block))
        if self._changes == before and len(block) <= _LONGEST and len(self._known) < _MOST:
            self._known[block] = seen
        return seen

    def plain(self, block: bytes) -> Headers:
        """The headers of a block. Raises Http2Error."""
        try:
            return cast(Headers, self._decoder.decode(block, raw=True))
        except hpack.HPACKError as exc:
            raise Http2Error(COMPRESSION_ERROR, f"a header block that can't be read: {exc}") from exc
        finally:
            if self._table.changes != self._changes:
                self._changes = self._table.changes
                self._known.clear()


def malformed(headers: Headers) -> str:
    """What is wrong with the headers of a request; empty: nothing."""
    seen: set[bytes] = set()
    regular = False
    for name, _ in headers:
        if name.startswith(b":"):
            if regular or name in seen or name not in (*_NEEDED, b":authority"):
                return f"the header {name.decode('latin-1')} is out of place"
            seen.add(name)
        else:
            regular = True
            if name != name.lower() or name in _HOP:
                return f"the header {name.decode('latin-1')} is none of HTTP/2"
    missing = _NEEDED - seen
    return f"no header {min(missing).decode()}" if missing else ""


def block(*headers: tuple[bytes, bytes]) -> bytes:
    """A header block as a server sends it: literals, which need no table on either side.

    Raises:
        ValueError: a name or value is longer than 16 KiB.
    """
    return b"".join(
        b"\x88" if header == (b":status", b"200") else b"\x00" + _text(header[0]) + _text(header[1])
        for header in headers
    )


def _text(value: bytes) -> bytes:
    length = len(value)
    if length < 127:
        return bytes((length,)) + value
    if length > 1 << 14:
        raise ValueError(f"a header of {length} bytes")
    rest, groups = length - 127, [127]
    while rest >= 128:
        groups.append(rest & 127 | 128)
        rest >>= 7
    return bytes((*groups, rest)) + value
