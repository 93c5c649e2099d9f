"""What a reader does with the page: links, filters, search, keys, tables, downloads, colours."""

from __future__ import annotations

import csv
import io
import re

import pytest
from synthetic_analysis import write_analysis
from synthetic_run import write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first = write_run(folder / "first", attention=True)
    second = write_run(folder / "second", seed=3, dead=(5,))
    return folder, first["components"]["language_model"], second["components"]["language_model"]


@pytest.fixture(scope="module")
def page(runs, write_page):
    return write_page(runs[0] / "one.html", runs[0] / "first")


@pytest.fixture(scope="module")
def shared(open_shared_page, page):
    return open_shared_page(page)


@pytest.fixture
def opened(shared):
    """The page of one run, as it opens; all tests that do not ask for another size share it."""
    shared.reset()
    return shared


def test_policy_allows_no_connection_and_only_its_own_scripts(page):
    html = page.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    scripts = rules["script-src"].split()
    assert all(script.startswith("'sha256-") for script in scripts)
    assert len(scripts) == html.count("<script>")
    assert not re.search(r"<script[^>]+src=|<link[^>]+stylesheet", html)


def test_every_figure_of_the_list_is_drawn_or_named_as_missing(opened):
    every = opened.page.evaluate("moetap.figures.all.map((figure) => figure.id)")
    missing = [
        title for titles in opened.page.locator("#part-absent li b").all_inner_texts() for title in titles.split(" · ")
    ]
    assert len(opened.ids()) + len(missing) == len(every)
    assert "usage" in opened.ids() and "alignment" not in opened.ids()
    assert "two runs with dumps of the same tokens" in opened.page.locator("#part-absent").inner_text()
    for figure in opened.ids():
        assert opened.traces(figure), figure
        assert opened.table(figure), figure


def test_a_finding_leads_to_its_figure(opened):
    link = opened.page.locator(".findings a").first
    target = link.get_attribute("href")
    link.click()
    figure = re.search(r"figure=([\w-]+)", target)[1]
    opened.wait_for_hash(target)
    opened.page.wait_for_selector(f"#figure-{figure}.linked")
    opened.page.wait_for_function(
        "(id) => Math.abs(document.getElementById(id).getBoundingClientRect().top) < innerHeight",
        arg=f"figure-{figure}",
    )


def test_address_chooses_layer_and_expert(open_page, page, runs):
    opened = open_page(page, "#layer=2&expert=3")
    assert opened.page.locator("#filters select[data-key=layer]").input_value() == "2"
    assert opened.page.locator("#filters select[data-key=expert]").input_value() == "3"
    bars = opened.traces("experts-of-a-layer")[0]
    assert bars["y"] == runs[1]["2"]["selected_count"]
    assert len(set(bars["marker"]["color"])) == 2
    opened.page.evaluate("location.hash = '#layer=1'")
    opened.page.wait_for_function("() => document.querySelector('#filters select[data-key=layer]').value === '1'")
    assert opened.traces("experts-of-a-layer")[0]["y"] == runs[1]["1"]["selected_count"]
    opened.page.evaluate("location.hash = '#layer=77&expert=-1&component=none'")
    opened.page.wait_for_function("() => document.querySelector('#filters select[data-key=layer]').value === ''")


def test_a_click_on_a_cell_chooses_it(opened):
    opened.traces("usage")
    opened.page.locator("#figure-usage").scroll_into_view_if_needed()
    box = opened.page.locator("#figure-usage .plot .nsewdrag").bounding_box()
    opened.page.mouse.click(box["x"] + box["width"] * (6.5 / 8), box["y"] + box["height"] * (2.5 / 4))
    opened.page.wait_for_function("() => location.hash === '#layer=2&expert=6'")


def test_filters_and_keys(opened):
    opened.page.locator("#filters select[data-key=layer]").select_option("1")
    opened.wait_for_hash("#layer=1")
    opened.page.locator("h1").click()
    opened.page.keyboard.press("]")
    opened.wait_for_hash("#layer=2")
    opened.page.keyboard.press("[")
    opened.wait_for_hash("#layer=1")
    opened.page.keyboard.press("Escape")
    opened.wait_for_hash("")
    opened.page.keyboard.press("/")
    assert opened.page.evaluate("document.activeElement.id") == "search"
    opened.page.keyboard.type("layer 3 entropy")
    opened.wait_for_hash("#layer=3")
    shown = opened.page.locator("#sections article.card:not([hidden]) h3").all_inner_texts()
    assert "Certainty of the routers" in shown and "Co-activation" not in shown
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("#sections article.card[hidden]").count() == 0


def test_everything_is_reached_by_tab(open_page, page):
    opened = open_page(page)
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "Skip to the figures"
    opened.page.keyboard.press("Enter")
    reached = set()
    for _ in range(40):
        opened.page.keyboard.press("Tab")
        reached.add(opened.page.evaluate("document.activeElement.tagName"))
    assert {"A", "BUTTON", "SELECT"} <= reached


def test_tables_sort_and_download(opened, runs):
    card = opened.page.locator("#figure-experts-of-a-layer")
    card.scroll_into_view_if_needed()
    card.get_by_role("button", name="as a table").click()
    card.get_by_role("button", name="selected_count").click()
    counts = runs[1]["0"]["selected_count"]
    cells = card.locator("tbody tr td:nth-child(2)").all_inner_texts()
    assert [int(cell.replace(",", "")) for cell in cells] == sorted(counts, reverse=True)
    assert card.locator("thead th").nth(1).get_attribute("aria-sort") == "descending"
    with opened.page.expect_download() as downloaded:
        card.get_by_role("button", name="as CSV").click()
    rows = list(csv.DictReader(io.StringIO(downloaded.value.path().read_text())))
    assert [int(row["selected_count"]) for row in rows] == counts
    assert [float(row["mean_weight"]) for row in rows] == runs[1]["0"]["mean_weight"]


@pytest.mark.parametrize("ending,begin", [("PNG", b"\x89PNG"), ("SVG", b"<svg")])
def test_pictures_of_a_figure(opened, ending, begin):
    card = opened.page.locator("#figure-balance")
    card.scroll_into_view_if_needed()
    with opened.page.expect_download() as downloaded:
        card.get_by_role("button", name=f"as {ending}").click()
    assert downloaded.value.suggested_filename == f"load_balance.{ending.lower()}"
    content = downloaded.value.path().read_bytes()
    assert content.startswith(begin) and len(content) > 2000


def test_light_and_dark(open_page, page):
    opened = open_page(page, theme="dark")
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "dark"
    dark = opened.traces("usage")[0]["colorscale"]
    opened.page.locator("#theme").click()
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "light"
    opened.page.locator("#figure-usage").scroll_into_view_if_needed()
    assert opened.traces("usage")[0]["colorscale"] != dark


def test_no_sideways_scrolling_on_a_phone(open_page, page):
    opened = open_page(page, size=(390, 844))
    opened.show_all()
    wide = opened.page.evaluate(
        """moetap.page.cards.filter((card) => card.element.scrollWidth > card.element.clientWidth)
          .map((card) => card.figure.id)"""
    )
    assert wide == []
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_two_runs_say_what_changed(open_page, runs, write_page):
    folder, first, second = runs
    opened = open_page(write_page(folder / "two.html", folder / "first", folder / "second"))
    findings = opened.page.locator("#findings").inner_text()
    assert "second: Layers 0, 1, 2 and 3 never choose expert 5." in findings
    # What changed comes first, and each run has a verdict of its own.
    levels = opened.page.evaluate("moetap.findings.all('language_model').map((one) => one.figure)")
    assert levels[:2] == ["change-usage", "change-metrics"]
    assert opened.page.locator(".verdict .sign").all_inner_texts() == [
        f"{name}: {opened.page.evaluate(f'moetap.verdict.ofRun({run}).sign')}"
        for run, name in enumerate(("first", "second"))
    ]
    assert "never chosen" in opened.page.locator("#verdict-1").inner_text()
    opened.traces("coactivation")  # of one run only: which is said
    assert "run first" in opened.page.locator("#figure-coactivation .where").inner_text()
    rows = opened.table("change-usage")
    for row in rows:
        a = first[row["layer"]]["usage"][row["expert_id"]]
        b = second[row["layer"]]["usage"][row["expert_id"]]
        assert (row["a"], row["b"], row["diff"]) == (a, b, b - a)
        assert row["specialization"] == (abs(a - b) / (a + b) if a + b else 0)
        assert row["dominant"] == ("same" if a == b else "a" if a > b else "b")


def test_an_analysis_fills_its_figures(open_page, runs, write_page):
    folder = runs[0]
    write_analysis(folder / "analysis")
    opened = open_page(write_page(folder / "analysed.html", folder / "first", folder / "analysis"))
    wanted = {
        *("importance", "role-shift", "stability", "evolution-sankey", "expert-cache", "placement", "imbalance"),
        *("predictability", "categories", "category-entropy", "group-difference", "enrichment", "cooperation"),
        *("alignment", "matching"),
    }
    assert wanted <= set(opened.ids())
    link = opened.page.locator(".findings a", has_text="layer 2 holds 80 %")
    if link.count() == 0:
        opened.page.get_by_role("button", name="Show all").click()
    assert "figure=importance" in link.get_attribute("href") and "layer=2" in link.get_attribute("href")
