"""The queries of examples/sql over an export, against summary.json and NumPy; Polars and Spark give the same sums."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars
import pytest
import torch
from conftest import CATEGORIES, dump_of
from moe_model import MoeModel

SQL = Path(__file__).resolve().parents[3] / "examples" / "sql"
sys.path.insert(0, str(SQL))

import query  # noqa: E402


@pytest.fixture(scope="module")
def exported(moetap, recorded, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sql") / "parquet"
    assert moetap("export", recorded, "--to", "parquet", "-o", path).returncode == 0
    return path


@pytest.fixture
def summary(recorded) -> dict:
    return json.loads((recorded / "moetap/summary.json").read_text())["components"]["language_model"]


def rows_of(name: str, export: Path, **arguments) -> list[tuple]:
    return query.run(SQL / name, export, "language_model", **arguments).fetchall()


def counts_of(rows) -> dict[str, list[int]]:
    counts = {layer: [0] * 4 for layer in "01"}
    for layer, expert, number in rows:
        counts[str(layer)][expert] = number
    return counts


def test_usage_is_that_of_the_summary(exported, summary):
    assert counts_of(rows_of("usage.sql", exported)) == {layer: summary[layer]["selected_count"] for layer in "01"}


def test_coactivation_is_that_of_the_summary(exported, summary):
    pairs = {layer: np.diag(summary[layer]["selected_count"]) for layer in "01"}
    for layer, a, b, tokens in rows_of("coactivation.sql", exported):
        pairs[layer][a, b] = pairs[layer][b, a] = tokens
    for layer in "01":
        assert pairs[layer].tolist() == summary[layer]["coactivation"]


def test_specialisation_by_category(exported, recorded):
    dump = dump_of(recorded)
    categories = np.array(CATEGORIES)[dump["sample"]]
    rows = rows_of("specialisation.sql", exported, samples=recorded.parent / "samples.jsonl")
    assert rows
    for layer, category, expert, selected, lift in rows:
        ids = dump[f"{layer}.selected"]
        own = ids[categories == category]
        assert selected == (own == expert).sum()
        assert lift == pytest.approx((own == expert).mean() / (ids == expert).mean())


def test_flips_between_two_runs(moetap, exported, recorded, tmp_path):
    torch.manual_seed(0)
    model = MoeModel()
    with torch.no_grad():
        model.layers[1].gate.weight[0] *= -1
    torch.jit.script(model).save(tmp_path / "moe.pt")
    inputs = recorded.parent / "in"
    assert (
        moetap("run", tmp_path / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", "--dump", "topk").returncode == 0
    )
    assert moetap("export", tmp_path / "run", "--to", "parquet", "-o", tmp_path / "other").returncode == 0
    before, after = dump_of(recorded), dump_of(tmp_path / "run")
    rows = rows_of("flips.sql", exported, other=tmp_path / "other")
    assert [row[0] for row in rows] == ["0", "1"]
    for layer, tokens, first, sets in rows:
        a, b = before[f"{layer}.selected"], after[f"{layer}.selected"]
        assert tokens == len(a)
        assert first == pytest.approx((a[:, 0] != b[:, 0]).mean())
        assert sets == pytest.approx((np.sort(a) != np.sort(b)).any(1).mean())
    assert rows[0][2] == 0 and rows[1][2] > 0


def test_the_program_prints_csv(exported, summary):
    command = [sys.executable, SQL / "query.py", "usage.sql", exported]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "layer,expert,selected"
    assert counts_of(
        (layer, int(expert), int(number)) for layer, expert, number in (line.split(",") for line in lines[1:])
    ) == {layer: summary[layer]["selected_count"] for layer in "01"}


def test_polars_counts_the_same(exported, summary):
    frame = polars.scan_parquet(f"{exported}/component=*/layer=*/*.parquet", hive_partitioning=True)
    slots = frame.select("layer", expert=polars.concat_list(polars.col("^e\\d+$"))).explode("expert")
    counts = slots.filter(polars.col("expert") >= 0).group_by("layer", "expert").len().collect()
    assert counts_of(counts.rows()) == {layer: summary[layer]["selected_count"] for layer in "01"}


def test_spark_counts_the_same(exported, summary):
    if shutil.which("java") is None:
        pytest.skip("Spark: no Java (apt-get install default-jre-headless)")
    if subprocess.run([sys.executable, "-c", "import pyspark"], capture_output=True).returncode != 0:
        pytest.skip("Spark: no pyspark (pip install pyspark)")
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as f

    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        files = f"{exported}/component=*/layer=*"
        frame = spark.read.option("basePath", str(exported)).parquet(files)
        slots = frame.select("layer", f.explode(f.array("e0", "e1")).alias("expert")).where("expert >= 0")
        counts = counts_of(tuple(row) for row in slots.groupBy("layer", "expert").count().collect())
    finally:
        spark.stop()
    assert counts == {layer: summary[layer]["selected_count"] for layer in "01"}
