"""What clients have changed in the workers, for those that are started later."""

from __future__ import annotations

from typing import Any


class Changes:
    """The changes that are still in force."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], dict[str, Any]] = {}

    def note(self, call: str, arguments: dict[str, Any]) -> None:
        """A worker has done this, and all others do it now."""
        name = arguments.get("name", "")
        if call == "load":
            # As a new worker does by itself.
            self._kept.pop(("unload", name), None)
        elif call == "unregister":
            for key in [key for key in self._kept if key[0] == "register" and name in ("", key[1])]:
                del self._kept[key]
        else:
            before = self._kept.pop((call, name), {})
            given = {**before.get("given", {}), **arguments.get("given", {})}
            self._kept[call, name] = {**arguments, "given": given} if given else arguments

    def calls(self) -> list[dict[str, Any]]:
        """What a new worker has to do, in order."""
        return [{"call": call, "arguments": arguments} for (call, _), arguments in self._kept.items()]
