"""The command ``deepseek``, and ``python -m deepseek``: an interrupt while it starts ends it without a word."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script."""
    try:
        from deepseek.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
