"""``python -m deepseek``: the command, for environments without console scripts."""

from deepseek.cli import main

main()
