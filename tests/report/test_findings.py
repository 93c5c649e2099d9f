"""The overview: the verdict of a run or a training, the order of the sentences, and the layer that each names."""

from __future__ import annotations

import json

import pytest
from synthetic_run import write_run


def write_analysis(folder, components: dict) -> None:
    folder.mkdir()
    analysis = {"schema_version": 1, "moetap_version": "0.1.0", "inputs": [], "components": components, "not_run": []}
    (folder / "analysis.json").write_text(json.dumps(analysis))


def usage_study(sentence: str, first_layer: int, notices: tuple[str, ...] = ()) -> dict:
    """A study of the notebook's, whose tables count layers from 1."""
    rows = [(first_layer + n, expert, 0.5, 0.5) for n in range(3) for expert in range(2)]
    table = dict(zip(("layer", "expert_id", "usage", "importance"), map(list, zip(*rows, strict=True)), strict=True))
    return {"expert_usage": {"sentence": sentence, "tables": {"expert_usage": table}, "notices": list(notices)}}


def findings(opened, component: str) -> list[dict]:
    return opened.page.evaluate("(component) => moetap.findings.all(component)", component)


def test_a_sentence_of_a_run_names_layers_by_id(open_page, write_page, tmp_path):
    write_run(tmp_path / "run", layers=3)
    study = usage_study("expert 1 of layer 2 has most", 1, ("it is a guess",))
    write_analysis(tmp_path / "analysis", {"language_model": study})
    opened = open_page(write_page(tmp_path / "page.html", tmp_path / "run", tmp_path / "analysis"))
    (found,) = [one for one in findings(opened, "language_model") if one.get("study") == "expert_usage"]
    assert found["text"] == "Expert 1 of layer 2 has most." and found["layer"] == "2"
    assert {row["layer"] for row in opened.table("importance")} == {"0", "1", "2"}
    # What the study says of its making stands below the figure, not among what stands out.
    assert "It is a guess." in opened.page.locator("#figure-importance").inner_text()


def test_a_sentence_of_arrays_counts_layers_from_1(open_page, write_page, tmp_path):
    write_analysis(tmp_path / "analysis", {"arrays": usage_study("expert 1 of layer 2 has most", 1)})
    opened = open_page(write_page(tmp_path / "page.html", tmp_path / "analysis"))
    (found,) = [one for one in findings(opened, "arrays") if one.get("study") == "expert_usage"]
    assert found["text"] == "Expert 1 of layer 2 has most (layers counted from 1)."


def test_a_sentence_of_a_log_is_that_of_the_component_with_values(open_page, write_page, tmp_path):
    write_run(tmp_path / "run", layers=2)
    table = {
        "component": ["language_model", "vision_tower"],
        "category": ["digit 0", "digit 0"],
        "layer": ["0", "0"],
        "entries": [36, 36],
        "dist_entropy": [0.5, None],
    }
    study = {"sentence": "category digit 0 spreads least", "tables": {"category_entropy": table}, "notices": []}
    write_analysis(tmp_path / "analysis", {"log": {"logged_metrics": study}})
    opened = open_page(write_page(tmp_path / "page.html", tmp_path / "run", tmp_path / "analysis"))
    said = [one["text"] for one in findings(opened, "language_model") if one.get("study") == "logged_metrics"]
    assert said == ["Category digit 0 spreads least."]
    assert not any(one.get("study") == "logged_metrics" for one in findings(opened, "vision_tower"))


def test_heavy_and_light_experts_are_named(open_page, write_page, tmp_path):
    summary = write_run(tmp_path / "run", layers=8, experts=16)
    layers = summary["components"]["language_model"]
    opened = open_page(write_page(tmp_path / "page.html", tmp_path / "run"))
    texts = [one["text"] for one in findings(opened, "language_model")]
    ratios = [(ratio, name, e) for name, layer in layers.items() for e, ratio in enumerate(layer["load_ratio"])]
    ratio, name, expert = max(ratios)
    assert ratio >= 1.5
    assert any(text.startswith("Heaviest expert") and f"{expert} in layer {name} (" in text for text in texts)
    light = sum(0 < ratio < 0.5 for ratio, _, _ in ratios)
    assert any(text.startswith(f"{light} expert") and "of 128 get" in text for text in texts) == (light > 0)
    worst = max(layers, key=lambda name: layers[name]["load_cv"])
    verdict = opened.page.locator("#verdict-0").inner_text()
    uneven = sum(layer["load_cv"] >= 0.5 for layer in layers.values())
    assert f"Layer {worst} is the most uneven" in verdict and f"uneven in {uneven} of 8 layers" in verdict
    opened.page.locator("#verdict-0 a").click()
    assert f"layer={worst}" in opened.page.evaluate("location.hash")


@pytest.mark.parametrize(
    "last,sign", [(0.97, "Collapsed"), (0.6, "Leans on one expert"), (0.4, "Spread out")], ids=["all", "most", "some"]
)
def test_verdict_of_a_training(open_page, write_page, tmp_path, last, sign):
    shares = [(1 - last) / 3, last, (1 - last) / 3, (1 - last) / 3]
    epochs = [
        {"epoch": 1, "routing_acc": 0.25, "entropy": 1.3, "utilization": [0.25] * 4},
        {"epoch": 2, "routing_acc": 0.75, "entropy": 0.4, "utilization": shares},
    ]
    log = tmp_path / "training_log.txt"
    log.write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    opened = open_page(write_page(tmp_path / "page.html", "--training-log", log))
    verdict = opened.page.locator("#verdict-training").inner_text()
    assert verdict.startswith(sign)
    assert f"epoch 2, expert 1 gets {last * 100:g} % of the tokens" in verdict
    assert "entropy fell from 1.3 nats to 0.4 nats and routing accuracy rose from 25 % to 75 %" in verdict
    assert opened.page.locator("#filters").is_hidden()


def test_a_figure_without_flows_says_so_and_draws_again(open_page, write_page, tmp_path):
    """Of a study that was cut, the shown layers may have no row at all."""
    write_run(tmp_path / "run", layers=9, experts=4)
    columns = ("from_layer", "to_layer", "from_expert", "to_expert", "weight", "probability")
    rows = [(n, n + 1, 0, 1, 0.0, 0.0) for n in range(1, 8)] + [(8, 9, 0, 1, 2.0, 0.5), (8, 9, 2, 3, 1.0, 0.5)]
    table = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
    study = {"sentence": "", "tables": {"expert_transitions": table}, "notices": []}
    write_analysis(tmp_path / "analysis", {"language_model": {"expert_transitions": study}})
    opened = open_page(write_page(tmp_path / "page.html", tmp_path / "run", tmp_path / "analysis"))
    plot = opened.page.locator("#figure-evolution-sankey .plot")
    for layer in ("7", "", "7"):  # "": the first six layers, between which nothing flows
        opened.page.locator("#filters select[data-key=layer]").select_option(layer)
        if layer:
            assert opened.traces("evolution-sankey")[0]["link"]["value"] == [2 / 3, 1 / 3]
            assert plot.locator(".sankey-link").count() == 2
        else:
            assert len(opened.table("evolution-sankey")) == len(rows)
            assert plot.inner_text() == "Nothing flows between what is shown here."
