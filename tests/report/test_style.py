"""The page's style, read by a parser of CSS and by the browser: nothing is wrong, unknown, unused or said twice."""

from __future__ import annotations

import pathlib
import re

import pytest

tinycss2 = pytest.importorskip("tinycss2")

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "report"
STYLE = (FOLDER / "page.css").read_text()
SCRIPTS = "".join(path.read_text() for path in FOLDER.rglob("*.js")) + (FOLDER / "page.html").read_text()
# Set by Plotly, or on the root element by name.
OTHERS = {"js-plotly-plot"}


def rules(nodes, context: str = "") -> list[tuple[str, str, list]]:
    """(at-rule that it stands in, selector, declarations) of each rule; no part of the style may be an error."""
    found = []
    for node in nodes:
        assert node.type != "error", (node.source_line, node.message)
        if node.type == "at-rule":
            inner = tinycss2.parse_rule_list(node.content, skip_whitespace=True, skip_comments=True)
            found += rules(inner, f"@{node.at_keyword} {tinycss2.serialize(node.prelude).strip()}")
        elif node.type == "qualified-rule":
            declared = tinycss2.parse_blocks_contents(node.content, skip_whitespace=True, skip_comments=True)
            for one in declared:
                assert one.type == "declaration", (one.source_line, getattr(one, "message", one.type))
            found.append((context, tinycss2.serialize(node.prelude).strip(), declared))
    return found


RULES = rules(tinycss2.parse_stylesheet(STYLE, skip_whitespace=True, skip_comments=True))


def test_the_browser_knows_every_declaration_and_selector(browser):
    selectors = [one.strip() for _, selector, _ in RULES for one in re.split(r",(?![^(]*\))", selector)]
    declared = [
        (one.name, tinycss2.serialize(one.value).strip())
        for _, _, declarations in RULES
        for one in declarations
        if not one.name.startswith("--")
    ]
    page = browser.new_page()
    unknown = page.evaluate(
        """([selectors, declared]) => [...selectors.filter((s) => !CSS.supports(`selector(${s})`)),
          ...declared.filter(([name, value]) => !CSS.supports(name, value))]""",
        [selectors, declared],
    )
    page.close()
    assert unknown == []
    assert len(declared) > 100


def test_nothing_is_said_twice_or_by_force():
    seen = set()
    for context, selector, declared in RULES:
        assert (context, selector) not in seen, (context, selector)
        seen.add((context, selector))
        names = [one.name for one in declared]
        assert len(names) == len(set(names)), (selector, names)
        assert not any(one.important for one in declared), selector


def test_every_class_and_id_is_in_the_page():
    for _, selector, _ in RULES:
        for name in re.findall(r"[.#]([a-zA-Z][\w-]*)", selector):
            assert name in OTHERS or re.search(rf"[\"'`\s.]{re.escape(name)}[\"'`\s.]", SCRIPTS), (selector, name)


def test_variables_are_set_in_both_themes_and_used():
    used = set(re.findall(r"var\(--([\w-]+)", STYLE)) | set(re.findall(r"variable\(\"([\w-]+)\"", SCRIPTS))
    light, dark = (
        {
            one.name[2:]
            for _, selector, declared in RULES
            if selector == wanted
            for one in declared
            if one.name[:2] == "--"
        }
        for wanted in (":root", ':root[data-theme="dark"]')
    )
    assert used <= light
    assert light <= used
    assert dark == light - {"mono", "sans"}
