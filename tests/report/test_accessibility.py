"""axe-core finds nothing serious in light, in dark and on a phone, with every table open; and the keys of a figure."""

from __future__ import annotations

import pytest
from synthetic_analysis import write_analysis
from synthetic_run import write_run


@pytest.fixture(scope="module")
def opened(open_shared_page, write_page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("axe")
    write_run(folder / "run", layers=3, attention=True)
    write_analysis(folder / "analysis", layers=3)
    page = open_shared_page(write_page(folder / "page.html", folder / "run", folder / "analysis"))
    page.page.evaluate("moetap.page.cards.forEach((card) => { card.show(); card.toggleTable(); })")
    return page


@pytest.mark.parametrize("theme,width", [("light", 1280), ("dark", 1280), ("dark", 390), ("light", 390)])
def test_axe_finds_nothing_serious(opened, theme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    opened.page.set_viewport_size({"width": width, "height": 900})
    opened.page.evaluate("(theme) => moetap.theme.apply(theme, false)", theme)
    assert opened.page.evaluate("document.documentElement.dataset.theme") == theme
    violations = axe.Axe().run(opened.page).response["violations"]
    serious = [
        (violation["id"], node["html"][:200], node["failureSummary"][:300])
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    assert serious == []


def test_every_figure_is_used_by_keyboard(opened):
    """Tab reaches the controls and tools of each figure in their order, and each of them has a name."""
    unnamed = opened.page.evaluate(
        """() => [...document.querySelectorAll("article.card")].flatMap((card) =>
          [...card.querySelectorAll("button, select, input, a[href]")].filter((one) => {
            const name = one.getAttribute("aria-label") || one.textContent.trim()
              || one.closest("label")?.textContent.trim();
            const group = one.closest("[role=group]");
            return !name || (one.tabIndex < 0 && !group);
          }).map((one) => `${card.id}: ${one.outerHTML.slice(0, 120)}`))"""
    )
    assert unnamed == []
    table = opened.page.locator("#figure-balance").get_by_role("button", name="as a table")
    table.focus()
    before = table.get_attribute("aria-expanded")
    opened.page.keyboard.press("Enter")
    assert table.get_attribute("aria-expanded") != before
    opened.page.keyboard.press("Enter")
