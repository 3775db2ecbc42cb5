"""Value types for settings: durations, sizes and percentages, written as people write them."""

from __future__ import annotations

import math
import re
from typing import ClassVar, Self

_DIGITS = r"[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_NUMBER = re.compile(rf"\s*({_DIGITS})\s*([A-Za-zµ%]*)\s*$")
#: Bytes that no machine has; what is larger is a slip of the pen.
_LARGEST = 1 << 60


def _split(text: str) -> tuple[float, str]:
    match = _NUMBER.match(text)
    if match is None or float(match[1]) == float("inf"):
        raise ValueError(text)
    return float(match[1]), match[2]


class Duration(float):
    """Seconds, written with a unit: ``150us``, ``2ms``, ``1.5s``, ``5m``, ``1h``, ``7d``. Plain 0 is allowed.

    Example:
        >>> Duration.parse("2ms")
        Duration(0.002)
    """

    wanted: ClassVar[str] = "a duration such as `2ms`, `1.5s` or `5m`"
    #: For the JSON Schema: what may be written as text, and as a number.
    pattern: ClassVar[str] = rf"^\s*{_DIGITS}\s*(us|µs|ms|s|m|h|d)\s*$"
    plain: ClassVar[dict[str, object]] = {"const": 0}
    examples: ClassVar[tuple[str, ...]] = ("2ms", "5m")
    _UNITS: ClassVar[dict[str, float]] = {
        "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0,
    }  # fmt: skip

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError for anything that is not a duration.

        Example:
            >>> Duration.parse("5m")
            Duration(300.0)
        """
        if value == 0 and not isinstance(value, bool):
            return cls(0.0)
        number, unit = _split(value) if isinstance(value, str) else (0.0, "")
        if unit not in cls._UNITS or not math.isfinite(number * cls._UNITS[unit]):
            raise ValueError(value)
        return cls(number * cls._UNITS[unit])

    def __repr__(self) -> str:
        return f"Duration({float(self)!r})"

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s", "ms"):
            if self >= self._UNITS[unit]:
                return f"{float(self) / self._UNITS[unit]:g}{unit}"
        return f"{float(self) * 1e6:g}us"


class Size(int):
    """Bytes: a plain number, or one with a unit (``512MiB``, ``16GiB``, ``2GB``).

    Example:
        >>> Size.parse("16GiB") == 16 * 2**30
        True
    """

    wanted: ClassVar[str] = "a size such as `512MiB` or `16GiB`"
    pattern: ClassVar[str] = rf"^\s*{_DIGITS}\s*([KMGT]i?B|B)\s*$"
    plain: ClassVar[dict[str, object]] = {"type": "integer", "minimum": 0}
    examples: ClassVar[tuple[str, ...]] = ("512MiB", "16GiB")
    _UNITS: ClassVar[dict[str, int]] = {
        "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
        "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    }  # fmt: skip

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError for anything that is not a size.

        Example:
            >>> Size.parse("2KiB")
            Size(2048)
        """
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
            return cls(value)
        number, unit = _split(value) if isinstance(value, str) else (0.0, "")
        if unit not in cls._UNITS or number * cls._UNITS[unit] > _LARGEST:
            raise ValueError(value)
        return cls(round(number * cls._UNITS[unit]))

    def __repr__(self) -> str:
        return f"Size({int(self)})"

    def __str__(self) -> str:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if self >= self._UNITS[unit]:
                return f"{self / self._UNITS[unit]:.4g}{unit}"
        return f"{int(self)}B"


class Percent(float):
    """A share: ``1%`` is 0.01; a plain number from 0 to 1 is taken as it is.

    Example:
        >>> float(Percent.parse("1%"))
        0.01
    """

    wanted: ClassVar[str] = "a percentage such as `1%`, or a number from 0 to 1"
    pattern: ClassVar[str] = rf"^\s*{_DIGITS}\s*%\s*$"
    plain: ClassVar[dict[str, object]] = {"type": "number", "minimum": 0, "maximum": 1}
    examples: ClassVar[tuple[str, ...]] = ("1%",)

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError for anything that is not a percentage.

        Example:
            >>> Percent.parse("50%")
            Percent(0.5)
        """
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return cls(value)
        number, unit = _split(value) if isinstance(value, str) else (0.0, "")
        if unit != "%" or number > 100:
            raise ValueError(value)
        return cls(number / 100)

    def __repr__(self) -> str:
        return f"Percent({float(self)!r})"

    def __str__(self) -> str:
        return f"{float(self) * 100:g}%"
