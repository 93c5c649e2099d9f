"""Names that try to be more than names are shown as text."""

from __future__ import annotations

import json
import re

import pytest
from synthetic_analysis import write_analysis
from synthetic_run import write_run

NAMES = [
    "<script>globalThis.broken = true</script>",
    "</script><img src=x onerror='globalThis.broken = true'>",
    "\"quotes\" 'and' `ticks` & entities &lt;b&gt;",
    "emoji 🦊 and مرحبا right to left \u202eabc",
    "<!-- <script> \u2028 \u2029 %{x} $& @DATA@ @SCRIPTS@",
    "x" * 10000,
]


@pytest.mark.parametrize("name", NAMES, ids=["script", "end of script", "quotes", "emoji", "comment", "long"])
def test_hostile_names_are_text(open_page, write_page, tmp_path, name):
    write_run(tmp_path / "run", layers=2, module=name.replace("{", "{{").replace("}", "}}") + ".{}", component=name)
    write_analysis(tmp_path / "analysis", layers=2, component=name, group=name, sentence=f"layer 1 is {name}")
    (tmp_path / "training_log.txt").write_text(json.dumps({"epoch": name, "utilization": [0.5, name]}) + "\n")
    page = write_page(
        *(tmp_path / "page.html", tmp_path / "run", tmp_path / "analysis"),
        *("--title", name[:2000], "--training-log", tmp_path / "training_log.txt"),
    )
    opened = open_page(page)
    assert opened.page.evaluate("globalThis.broken") is None
    assert opened.page.locator("#title").text_content() == name[:2000]
    assert opened.page.title() == re.sub(r"[ \t\n\f\r]+", " ", name[:2000]).strip()
    assert opened.page.evaluate("moetap.data.components()[0]") == name
    opened.show_all()
    assert all(opened.table(figure) for figure in opened.ids())
    assert {row["group"] for row in opened.table("categories")} >= {name}
    assert opened.page.evaluate("globalThis.broken") is None
    assert opened.page.locator("#sections img, #sections script").count() == 0
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
