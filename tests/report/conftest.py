"""Writes pages with the built program and opens them in Debian's Chromium."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
from typing import Any

import pytest

MOETAP = pathlib.Path(os.environ["MOETAP_BIN_DIR"]) / "moetap"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# A container lets Chromium make no sandbox; surfaces need a GL, which SwiftShader draws without a GPU.
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="session")
def report():
    """report(ARGUMENTS...) runs `moetap report`; the test checks what it returns."""

    def run(*arguments, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [MOETAP, "report", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture(scope="session")
def write_page(report):
    """write_page(PATH, ARGUMENTS...) writes a page and returns its path."""

    def write(path: pathlib.Path, *arguments) -> pathlib.Path:
        done = report(*arguments, "-o", path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(path)
        return path

    return write


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; scripts/setup installs it as root")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


TIMEOUT_MS = 180_000  # machines that test are busy
# Chromium's advice about how Plotly reads back its surfaces.
ADVICE = "Canvas2D: Multiple readback operations"


class OpenPage:
    """A page that is open, with what it logged and asked for."""

    def __init__(self, page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("console", self.note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def note(self, message) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(ADVICE):
            self.errors.append(message.text)

    def ids(self) -> list[str]:
        return self.page.evaluate("moetap.page.cards.map((card) => card.figure.id)")

    def traces(self, figure: str) -> list[dict[str, Any]]:
        """The data of a figure, as Plotly has it."""
        return json.loads(
            self.page.evaluate(
                """(id) => {
                  const card = moetap.page.cards.find((one) => one.figure.id === id);
                  card.show();
                  return JSON.stringify(card.plot.data ?? null);
                }""",
                figure,
            )
        )

    def table(self, figure: str) -> list[dict[str, Any]]:
        """The rows of a figure's table."""
        table = json.loads(
            self.page.evaluate(
                """(id) => {
                  const card = moetap.page.cards.find((one) => one.figure.id === id);
                  card.show();
                  return JSON.stringify(card.result.table);
                }""",
                figure,
            )
        )
        names = [column["name"] for column in table["columns"]]
        return [dict(zip(names, row, strict=True)) for row in table["rows"]]

    def wait_for_hash(self, expected: str) -> None:
        self.page.wait_for_function("(hash) => location.hash === hash", arg=expected)

    def choose(self, figure: str, label: str, value: str) -> None:
        self.page.locator(f"#figure-{figure} .controls label", has_text=label).locator("select").select_option(value)

    def show_all(self) -> None:
        """Draws every figure, in view or not."""
        self.page.evaluate("moetap.page.cards.forEach((card) => card.show())")

    def reset(self, anchor: str = "") -> None:
        """As it was when it was opened: for tests that share a page."""
        self.page.evaluate(
            """(anchor) => {
              const search = document.getElementById("search");
              search.value = "";
              search.dispatchEvent(new Event("input"));
              document.activeElement.blur();
              moetap.theme.apply("light", false);
              location.hash = anchor;
              for (const card of moetap.page.cards) if (!card.data.hidden) card.toggleTable();
              scrollTo(0, 0);
            }""",
            anchor,
        )
        self.page.wait_for_function(
            """(anchor) => {
              const layer = new URLSearchParams(anchor.slice(1)).get("layer") ?? "";
              const selects = [...document.querySelectorAll("#filters select[data-key=layer]")];
              return selects.every((select) => select.value === layer);
            }""",
            arg=anchor,
        )

    def foreign_requests(self) -> list[str]:
        return [url for url in self.requests[1:] if not url.startswith(("data:", "blob:"))]


def opener(browser, opened: list[OpenPage]):
    def open_(path: pathlib.Path, anchor: str = "", size: tuple[int, int] = (1280, 900), theme: str = "light"):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=theme, accept_downloads=True
        )
        context.set_default_timeout(TIMEOUT_MS)
        page = OpenPage(context.new_page())
        opened.append(page)
        page.page.goto(path.resolve().as_uri() + anchor)
        page.page.wait_for_selector("html[data-ready=true]")
        return page

    return open_


def close_all(opened: list[OpenPage]) -> None:
    for page in opened:
        page.page.context.close()
    for page in opened:
        assert page.errors == []
        assert page.foreign_requests() == []


@pytest.fixture
def open_page(browser):
    """open_page(PATH, anchor, size, theme) opens a page; at the end it must have logged and asked for nothing."""
    opened: list[OpenPage] = []
    yield opener(browser, opened)
    close_all(opened)


@pytest.fixture(scope="module")
def open_shared_page(browser):
    """The same for a page that all tests of a file look at."""
    opened: list[OpenPage] = []
    yield opener(browser, opened)
    close_all(opened)
