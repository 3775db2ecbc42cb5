"""What clients have changed in the workers, for those that are started later."""

from __future__ import annotations

from typing import Any


class Changes:
    """The changes that are still in force."""

    def __init__(self) -> None:
        #: Call, tenant and name to the arguments.
        self._kept: dict[tuple[str, str, str], dict[str, Any]] = {}

    def note(self, call: str, arguments: dict[str, Any]) -> None:
        """A worker has done this, and all others do it now."""
        name, whose = arguments.get("name", ""), arguments.get("tenant", "")
        if call == "load":
            # As a new worker does by itself.
            self._kept.pop(("unload", whose, name), None)
        elif call == "unregister":
            gone = [key for key in self._kept if key[:2] == ("register", whose) and name in ("", key[2])]
            for key in gone:
                del self._kept[key]
        else:
            before = self._kept.pop((call, whose, name), {})
            given = {**before.get("given", {}), **arguments.get("given", {})}
            self._kept[call, whose, name] = {**arguments, "given": given} if given else arguments

    def calls(self) -> list[dict[str, Any]]:
        """What a new worker has to do, in order."""
        return [{"call": call, "arguments": arguments} for (call, *_), arguments in self._kept.items()]
