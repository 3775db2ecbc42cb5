"""The dashboard, in a real browser."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from deepseek_serving import keys
from serving_pieces import Running, serving, write_models

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.trouble = []
    page.on("console", lambda message: page.trouble.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    yield page
    context.close()


def test_it_shows_models_and_their_traffic_and_asks_no_other_host(shared: Running, page: Any) -> None:
    page.goto(shared.url)
    card = page.locator("article", has_text="echo / 1")
    card.get_by_text("READY").wait_for()
    for _ in range(20):
        shared.infer("echo", [[1.0, 2.0, 3.0, 4.0]])
    expect(card.locator(".p99")).to_have_text(re.compile("[0-9]"))
    expect(card.locator(".rate")).to_have_text(re.compile("[1-9]"))
    assert page.locator("#ready").text_content() == "ready"
    expect(card.locator(".facts")).to_have_text(re.compile(r"puppet_puppet on cpu; \d+ MiB; loaded in .*→ y FP32"))
    expect(card.locator(".queue")).to_have_text("0")
    failed = int(card.locator(".errors").text_content())
    assert shared.http.post("/v2/models/echo/infer", json={"inputs": []}).status_code == 400
    expect(card.locator(".errors")).to_have_text(str(failed + 1))
    device = page.locator("#devices tbody tr")
    expect(device).to_have_text(re.compile(rf"cpu{len(shared.server.names().split(', '))}\d+ %\d+ MiB"))
    assert card.locator(".bars svg rect").count() == 12
    assert card.locator("polyline").get_attribute("points")
    assert page.trouble == []
    assert {url.startswith(shared.url) for url in page.asked} == {True}


def test_a_picture_is_sent_and_its_answer_shown(tmp_path: Path, page: Any, coded_models: Path) -> None:
    with serving(coded_models) as running:
        page.goto(running.url)
        page.select_option("#model", "color")
        picture = io.BytesIO()
        Image.new("RGB", (9, 9), (10, 200, 20)).save(picture, "PNG")
        file = {"name": "leaf.png", "mimeType": "image/png", "buffer": picture.getvalue()}
        page.set_input_files("#picture", file)
        page.locator("#preview").wait_for(state="visible")
        page.get_by_role("button", name="Send").click()
        page.locator("#answer", has_text="green 0.").wait_for()
        page.set_input_files("#picture", [])
        page.select_option("#model", "embed")
        page.fill("#text", "hello world")
        page.get_by_role("button", name="Send").click()
        page.locator("#answer", has_text="embedding: [6,7,8,9]").wait_for()
        page.fill("#text", "")
        page.get_by_role("button", name="Send").click()
        page.locator("#answer", has_text="the body is empty").wait_for()


def test_it_asks_for_the_key_where_one_is_needed(tmp_path: Path, page: Any) -> None:
    write_models(tmp_path / "models", {"echo": ""})
    secret = keys.add(tmp_path / "keys.json", "acme")
    with serving(tmp_path / "models", keys=str(tmp_path / "keys.json")) as running:
        page.goto(running.url)
        page.locator("#trouble", has_text="API key").wait_for()
        page.fill("#key", secret)
        page.get_by_role("button", name="Use").click()
        page.locator("article", has_text="echo / 1").wait_for()
        page.locator("#trouble").wait_for(state="hidden")
