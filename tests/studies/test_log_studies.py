"""LibMoE's studies over logs, and the studies of layers over router scores, against the oracle."""

import numpy as np
import pytest
from arrays import Shape, random_arrays, save_arrays
from comparison import assert_tables
from libmoe_logs import random_logs, save_logs
from oracle import activation3d, libmoe
from oracle.notebook_arrays import table


def expected_log_tables(logs: list[dict]) -> dict[str, dict[str, list]]:
    """Checkpoints are called by the folders of their logs or by number: the caller puts the names in."""
    metrics, categories, diversity, switches, saturation = [], [], [], [], []
    for run, log in enumerate(logs):
        count = len(log["logs"])
        for layer, (entropy, margin) in libmoe.entropy_and_margin(log).items():
            metrics.append((run, "mme", "vision", layer, count, entropy, margin))
            diversity.append((run, "mme", "vision", layer, count, libmoe.diversity(log)[layer]))
    for (step, layer), value in libmoe.switch_fraction(logs).items():
        switches.append((step, step + 1, "vision", layer, len(logs[0]["logs"]), value))
    for (step, layer), value in libmoe.saturation(logs).items():
        saturation.append((step, len(logs) - 1, "vision", layer, len(logs[0]["logs"]), value))
    for run, log in enumerate(logs):
        values = libmoe.category_entropy(log)
        for layer, category in sorted(values, key=lambda key: (key[1], libmoe.layer_order(key[0]))):
            entries = [e for e in log["logs"] if e["doc"]["category"] == category]
            topk = libmoe.mean([libmoe.layers_of(e)[layer]["entropy_weight_topk"] for e in entries])
            categories.append((run, "vision", category, layer, len(entries), values[layer, category], topk))
    columns = ["run", "task", "component", "layer", "entries"]
    return {
        "router_metrics": table([*columns, "entropy_topk", "margin"], metrics),
        "diversity": table([*columns, "diver_loss"], diversity),
        "switch_fraction": table(["run_a", "run_b", "component", "layer", "samples", "switch_fraction"], switches),
        "saturation": table(["run", "last_run", "component", "layer", "samples", "position_match"], saturation),
        "category_entropy": table(
            ["run", "component", "category", "layer", "entries", "dist_entropy", "entropy_topk"], categories
        ),
    }


def sorted_rows(tables: dict) -> dict:
    """In one order, as text where it orders: components and layers are not ordered by the specification here."""
    out = {}
    for name, columns in tables.items():
        rows = sorted(zip(*columns.values(), strict=True), key=lambda row: [str(x) for x in row[:5]])
        out[name] = table(list(columns), rows)
    return out


@pytest.mark.parametrize("seed", range(2))
def test_checkpoints(seed, tables_of, tmp_path):
    logs = random_logs(seed)
    got = tables_of(*save_logs(tmp_path / "logs", logs))
    expected = expected_log_tables(logs)
    for columns in (got[name] for name in expected):
        projector = [layer == "mm_projector" for layer in columns["layer"]]
        assert any(projector)
        columns["component"] = ["vision"] * len(projector)
    assert_tables(sorted_rows(got), sorted_rows(expected))


def test_profiles_of_layers(tables_of, tmp_path):
    """Twenty-six layers with a period of twelve, two of them with a constant profile."""
    arrays = random_arrays(71, Shape(layers=26, samples=3, experts=6, width=9, attention=False), "float64")
    shift = np.random.default_rng(5).random((12, 6))
    for layer in range(26):
        gates = arrays["gates"][layer] * (0.05 + shift[layer % 12])
        arrays["gates"][layer] = gates / gates.sum(axis=-1, keepdims=True)
    arrays["gates"][[4, 17]] = 1 / 6
    arrays["topk"] = np.argsort(-arrays["gates"], axis=-1, kind="stable")[..., :2]
    valid = arrays["tokens"] != -1
    probabilities = arrays["gates"][:, valid]
    average, variance = activation3d.profiles(probabilities)
    got = tables_of(save_arrays(tmp_path / "a", arrays), "--only", "layer_activation")
    columns = got["layer_activation"]
    assert [float(x) for x in columns["avg_activation"]] == pytest.approx(average.ravel(), rel=1e-9)
    assert [float(x) for x in columns["var_activation"]] == pytest.approx(variance.ravel(), rel=1e-9, abs=1e-15)
    rows = [("arrays", i, j, j - i, x) for (i, j), x in activation3d.layer_correlations(average).items()]
    for i, row in enumerate(rows):
        if {4, 17} & set(row[1:3]):
            rows[i] = (*row[:4], None)
    expected = {"layer_correlation": table(["component", "layer_a", "layer_b", "delta", "correlation"], rows)}
    assert_tables(got, expected)
    for line in zip(*got["layer_periodicity"].values(), strict=True):
        at_distance = [row[4] for row in rows if row[3] == int(line[1]) and row[4] is not None]
        assert int(line[2]) == len(at_distance)
        if at_distance:
            mean = float(np.mean(at_distance))
            assert [float(line[3]), float(line[4])] == pytest.approx([mean, float(np.std(at_distance))], rel=1e-9)
            assert line[5] == ("strong" if mean > 0.7 else "moderate" if mean > 0.4 else "weak")
        else:
            assert line[3:] == ("", "", "")
