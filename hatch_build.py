"""Fills in the root distribution's dependencies and extras from the table of versions.

In a checkout they are direct references to the sibling folders, so that ``pip install '.[v1]'`` works with
plain pip. With ``DEEPSEEK_RELEASE=1`` in the environment (and always when built from an sdist, where there
are no siblings) they are plain version pins, which an index accepts.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class VersionsMetadataHook(MetadataHookInterface):
    """hatchling calls `update` while it reads the project's metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `dependencies` and `optional-dependencies`."""
        root = Path(self.root)
        table = runpy.run_path(str(root / "core/src/deepseek/versions.py"))
        switch = os.environ.get("DEEPSEEK_RELEASE", "0")
        if switch not in ("0", "1"):
            raise ValueError(f"DEEPSEEK_RELEASE is 1 or 0, not {switch!r}")
        release = switch == "1" or not (root / "core/pyproject.toml").exists()

        def requirement(name: str, folder: str, extra: str = "") -> str:
            wanted = f"{name}[{extra}]" if extra else name
            return f"{wanted}=={metadata['version']}" if release else f"{wanted} @ {(root / folder).as_uri()}"

        def plugins(version: str, *, flavoured: bool) -> list[str]:
            written = [name for name in table["members"](version) if name in table["PLUGINS"]]
            return [
                requirement(table["distribution"](name), folder, extra if flavoured else "")
                for name in written
                for folder, extra in [table["PLUGINS"][name]]
            ]

        versions = list(table["VERSIONS"])
        metadata["dependencies"] = [requirement("deepseek-core", "core")]
        metadata["optional-dependencies"] = {
            **{version: plugins(version, flavoured=True) for version in versions},
            **{f"{version}-plugins": plugins(version, flavoured=False) for version in versions},
            "all": plugins(versions[-1], flavoured=True),
        }
