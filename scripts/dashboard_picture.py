"""Draws docs/images/dashboard.png: serves the examples' classifier, puts load on it, and asks it about a photograph.

Needs what `make demo` prepares, and Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs/images/dashboard.png"


def main() -> None:
    """Serve, load, ask, draw."""
    deepseek = [sys.executable, "-m", "deepseek"]
    command = [*deepseek, "serve", str(ROOT / "examples/classify-onnxruntime.yaml"), "--name", "classify"]
    server = subprocess.Popen([*command, "--port", "0", "--grpc-port", "0"], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    url = next(word for word in server.stdout.readline().split() if word.startswith("http"))
    load = [*deepseek, "bench", url, "classify", "--clients", "4", "--seconds", "14", "--binary"]
    loading = threading.Thread(target=subprocess.run, args=(load,))
    loading.start()
    try:
        draw(url)
    finally:
        loading.join()
        server.terminate()
        server.wait()


def draw(url: str) -> None:
    """The page, after some seconds under load."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 840})
        page.goto(url)
        page.set_input_files("#picture", ROOT / "examples/models/photos/chelsea.png")
        page.get_by_role("button", name="Send").click()
        page.locator("#answer", has_text="tabby").wait_for()
        page.wait_for_timeout(10_000)
        page.screenshot(path=TARGET)
        browser.close()


if __name__ == "__main__":
    main()
