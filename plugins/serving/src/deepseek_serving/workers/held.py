"""What the supervisor knows of a worker."""

from __future__ import annotations

import socket
import subprocess
import time

from deepseek_serving.workers.channel import Channel


class Held:
    """A worker process, and the connections that it serves.

    Attributes:
        able: whether it takes connections.
        ready: whether its models are loaded.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.channel: Channel
        self.born = time.monotonic()
        self.able = self.ready = False
        self.slots: dict[int, socket.socket] = {}
