"""Every figure of every part, with every choice that it offers: what is drawn is in its table, and what is in the table
is in analysis.json or in summary.json, to the last bit. Of runs and of the notebook's arrays, studied by the page."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import MOETAP

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
models = pytest.importorskip("attention_model")

# What a figure's numbers are and which are drawn, for each combination of what its controls offer.
GATHER = """() => {
  const finite = (value) => typeof value === "number" && Number.isFinite(value);
  const drawn = (trace) => {
    if (trace.meta?.geometry || trace.mode === "text") return [];
    if (trace.meta) return Object.values(trace.meta).flat(3).filter(finite);
    if (trace.type === "sankey") return trace.link.value;
    if (trace.type === "surface") return trace.customdata.flat();
    if (trace.type === "heatmap") return trace.z.flat().filter(finite);
    return [...(trace.orientation === "h" ? trace.x : trace.y)].filter(finite);
  };
  const combinations = (controls) => controls.reduce(
    (all, { key, options }) => all.flatMap((one) => options.map(([value]) => ({ ...one, [key]: `${value}` }))), [{}]);
  return JSON.stringify(moetap.page.cards.map((card) => {
    card.show();
    const controls = card.figure.controls?.(moetap.selection.state.component, card.chosen) ?? [];
    return { id: card.figure.id, title: card.figure.title, studies: card.figure.studies ?? [], file: card.figure.file,
      shown: combinations(controls).map((chosen) => {
        Object.assign(card.chosen, chosen);
        card.isVisible = true;
        card.draw();
        const { table, layer, where } = card.result;
        return { chosen, layer, where, table, drawn: card.result.traces?.map(drawn) ?? null };
      }) };
  }));
}"""


def run_program(*arguments) -> None:
    done = subprocess.run([MOETAP, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def record(folder: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    torch.manual_seed(seed)
    model = models.Decoder(models.FusedAttention)
    torch.jit.script(model).save(folder / f"{name}.pt")
    run_program(
        *("run", folder / f"{name}.pt", "--inputs", folder / "in", "-o", folder / name, "--dump", "full"),
        *("--attention", "full", "--probe-tokens", 8, "--samples", folder / "samples.jsonl"),
    )
    return folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory, write_page):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "in").mkdir()
    generator = torch.Generator().manual_seed(1)
    for index in range(4):
        safetensors.save_file(
            {
                "input_ids": torch.randint(models.VOCABULARY, (3, 12), generator=generator),
                "attention_mask": torch.ones(3, 12, dtype=torch.long),
                "past": torch.zeros(models.NUM_LAYERS, 2, 3, models.NUM_HEADS, 0, models.WIDTH // models.NUM_HEADS),
            },
            folder / "in" / f"{index}.safetensors",
        )
    lines = [json.dumps({"doc_id": n, "doc": {"category": ["odd", "even"][n % 2]}}) for n in range(12)]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    first, second = record(folder, "first", 0), record(folder, "second", 5)
    options = ["--group-by", "category"]
    run_program("analyze", first, *options, "-o", folder / "one")
    run_program("analyze", first, second, *options, "-o", folder / "two")
    tables = {**tables_of(folder / "two"), **tables_of(folder / "one")}  # those of one run alone, then what compares
    return write_page(folder / "page.html", first, second, *options), tables, summary_of(first), summary_of(second)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory, write_page):
    folder = tmp_path_factory.mktemp("arrays")
    random = np.random.default_rng(3)
    layers, samples, length, experts, top_k = 3, 6, 12, 7, 2
    valid = random.integers(5, length + 1, samples)
    types = random.integers(0, 20, (samples, length))
    types[np.arange(length)[None] >= valid[:, None]] = -1
    logits = random.standard_normal((layers, samples, length, experts))
    gates = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    weights = random.random((layers, samples, length, length)) ** 3 * (types != -1)[None, :, None, :]
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "token_types.npy", types)
    np.save(folder / "arrays" / "topk_idx.npy", np.argsort(-gates, axis=-1, kind="stable")[..., :top_k])
    np.save(folder / "arrays" / "gate_scores.npy", gates.astype(np.float32))
    np.save(folder / "arrays" / "attn_weights.npy", (weights / weights.sum(-1, keepdims=True)).astype(np.float32))
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    for name in ("positive", "negative"):
        sequences = ["".join(random.choice(letters, 30)) for _ in range(8)]
        (folder / f"{name}.fasta").write_text("".join(f">{n}\n{text}\n" for n, text in enumerate(sequences)))
    options = ["--positive", folder / "positive.fasta", "--negative", folder / "negative.fasta"]
    run_program("analyze", folder / "arrays", *options, "-o", folder / "analysis")
    return write_page(folder / "page.html", folder / "arrays", *options), tables_of(folder / "analysis"), None, None


def tables_of(folder: pathlib.Path) -> dict[str, list[dict]]:
    """Rows of each table, of all components; layers by name, as texts."""
    found: dict[str, list[dict]] = {}
    for studies in json.loads((folder / "analysis.json").read_text())["components"].values():
        for study in studies.values():
            for name, columns in study["tables"].items():
                rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
                found.setdefault(name, []).extend(rows)
    return found


def summary_of(run: pathlib.Path) -> dict:
    return json.loads((run / "moetap" / "summary.json").read_text())


def studies_tables(page: pathlib.Path) -> dict[str, list[str]]:
    data = re.search(r'id="report-data" type="application/json">(.*?)</script>', page.read_text())[1]
    found: dict[str, list[str]] = {}
    for studies in json.loads(data)["analysis"]["components"].values():
        for name, study in studies.items():
            found.setdefault(name, []).extend(study["tables"])
    return found


LAYERS = ("layer", "from_layer", "to_layer", "layer_a", "layer_b")
TEXTS = (*LAYERS, "group", "group_a", "group_b", "category", "residue", "text", "source", "target", "placement", "run")


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def row_key(row: dict, names: list[str]) -> tuple:
    """The values of a row under these names; a layer that is counted from 1 gets its name."""
    values = []
    for name in names:
        value = row.get(name)
        if name in LAYERS and isinstance(value, int):
            value = str(value - 1)
        values.append(str(value) if name in TEXTS and value is not None else value)
    return tuple(values)


def compared_with_tables(shown: dict, sources: list[list[dict]]) -> int:
    """How many numbers of the figure's table stand in a table of its studies, in a row of the same names and layers."""
    names = ["expert_id" if column["name"] == "expert" else column["name"] for column in shown["table"]["columns"]]
    rows = [dict(zip(names, row, strict=True)) for row in shown["table"]["rows"]]
    best = 0
    for source in sources:
        common = [name for name in names if source and name in source[0]]
        if len(common) < 2:
            continue
        known = {row_key(row, common) for row in source}
        if all(row_key(row, common) in known for row in rows):
            best = max(best, sum(is_number(row[name]) for row in rows for name in common))
    return best


def compared_with_summary(shown: dict, summary: dict) -> int:
    """The same for metrics: a column under the name of a metric has its values."""
    names = [column["name"] for column in shown["table"]["columns"]]
    count = 0
    parts = [*summary["components"].values(), *summary.get("attention", {}).values()]
    for row in (dict(zip(names, cells, strict=True)) for cells in shown["table"]["rows"]):
        place = row.get("expert", row.get("head"))
        layer = row.get("layer", None if place is None else shown.get("layer"))
        for name, value in row.items():
            for part in parts:
                for owner in (part.get(layer, {}), part.get(layer, {}).get("experts") or {}):
                    expected = owner.get(name)
                    if place is not None:
                        expected = expected[place] if isinstance(expected, list) and len(expected) > place else None
                    if not is_number(expected) or name in ("layer", "expert", "head", "tokens"):
                        continue
                    assert value == expected, (name, layer, place)
                    count += 1
    return count


# Figures whose tables are of the page's own making: sums of counts, places and texts, differences of two runs. Their
# numbers have tests of their own (test_values.py, test_page.py, test_tokens.py).
OWN = {
    *("phases", "activation-3d", "coactivation", "transition", "paths", "tokens", "token-flow", "expert-patterns"),
    *("information-flow", "sankey-region", "region-specialization", "attention-regions", "category-entropy"),
    *("change-usage", "change-divergence", "change-metrics", "periodicity", "expert-attention"),
}


@pytest.mark.parametrize("kind", ["runs", "arrays"])
def test_every_figure(request, open_page, kind):
    page, tables, *summaries = request.getfixturevalue(kind)
    by_study = studies_tables(page)
    opened = open_page(page)
    figures = json.loads(opened.page.evaluate(GATHER))
    assert len(figures) >= (38 if kind == "runs" else 16), [figure["id"] for figure in figures]
    unproved, undrawn = set(), []
    for figure in figures:
        # Of arrays, the study of usage stands in for a run.
        studies = [*figure["studies"], *(["usage"] if kind == "arrays" else [])]
        of_studies = [tables[name] for study in studies for name in by_study.get(study, [])]
        for shown in figure["shown"]:
            place = (figure["id"], shown["chosen"])
            columns, rows = shown["table"]["columns"], shown["table"]["rows"]
            assert rows and all(len(row) == len(columns) for row in rows), place
            in_table = {value for row in rows for value in row if is_number(value)}
            for values in shown["drawn"] or []:
                missing = [
                    value for value in values if value not in in_table and value != 0
                ]  # counts of 0 are in no row
                undrawn += [(place, missing[:5])] * bool(missing)
            proved = compared_with_tables(shown, of_studies)
            summary = summaries[int(shown["chosen"].get("run", 0))]
            if summary is not None and not proved:
                proved = compared_with_summary(shown, summary)
            if not proved:
                unproved.add(figure["id"])
    assert undrawn == []
    # What stands in for a run has columns that the study has not (test_values.py has those of a run).
    own = OWN | ({"usage", "experts-of-a-layer"} if kind == "arrays" else set())
    assert unproved <= own, unproved - own


@pytest.mark.parametrize("kind", ["runs", "arrays"])
def test_studies_made_in_passing_are_those_of_analyze(request, kind):
    page, tables, _, _ = request.getfixturevalue(kind)
    data = re.search(r'id="report-data" type="application/json">(.*?)</script>', page.read_text())[1]
    compared = 0
    for studies in json.loads(data)["analysis"]["components"].values():
        for study in studies.values():
            for name, columns in study["tables"].items():
                if name in study.get("left_out", {}):
                    continue
                for column, cells in columns.items():
                    assert cells == [row[column] for row in tables[name]], (name, column)
                    compared += len(cells)
    assert compared > 1000
