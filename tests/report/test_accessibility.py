"""axe-core finds nothing serious, in light and dark."""

from __future__ import annotations

import pytest
from synthetic_analysis import write_analysis
from synthetic_run import write_run


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, write_page, tmp_path, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    write_run(tmp_path / "run", attention=True)
    write_analysis(tmp_path / "analysis")
    opened = open_page(write_page(tmp_path / "page.html", tmp_path / "run", tmp_path / "analysis"), theme=theme)
    opened.page.evaluate("moetap.page.cards.forEach((card) => { card.show(); card.toggleTable(); })")
    violations = axe.Axe().run(opened.page).response["violations"]
    serious = [
        (violation["id"], node["html"][:200], node["failureSummary"][:300])
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    assert serious == []
