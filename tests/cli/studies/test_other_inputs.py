"""Routed ids of R3 trainers, captured logits, attention of a run, FASTA files, weights of a model."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_model import Decoder, EagerAttention, no_past
from conftest import files_of, read_table
from moe_model import VOCABULARY
from safetensors.torch import save_file


def test_routed_ids_of_a_run_give_its_counts(moetap, recorded, analyze, tmp_path):
    assert moetap("export", recorded, "--to", "r3", "-o", tmp_path / "r3").returncode == 0
    only = ["--only", "layer_statistics,expert_cache", "--cache-phase", "all"]
    of_ids = analyze(tmp_path / "r3", "--experts", "4", *only)
    of_run = analyze(recorded, *only)
    assert (of_ids / "layer_statistics.csv").read_bytes() == (of_run / "layer_statistics.csv").read_bytes()
    assert not (of_ids / "expert_usage.csv").exists()


def test_what_are_no_routed_ids(assert_fails, tmp_path):
    out = ["-o", tmp_path / "x"]
    np.save(tmp_path / "a.npy", np.zeros((3, 2, 2), np.float32))
    assert_fails(1, "analyze", tmp_path / "a.npy", *out, parts=["a.npy", "[S, L, K]"])
    folder = tmp_path / "r3"
    folder.mkdir()
    np.save(folder / "sample-0.npy", np.zeros((3, 2, 2), np.int32))
    np.save(folder / "sample-1.npy", np.zeros((3, 4, 2), np.int32))
    assert_fails(1, "analyze", folder, *out, parts=["sample-1.npy", "4 layers"])


@pytest.fixture
def logits():
    random = torch.Generator().manual_seed(2)
    return {f"{layer}": torch.randn(2, 5, 6, generator=random) for layer in (0, 1, 10)}


def test_logits_by_layer_in_both_formats(analyze, logits, tmp_path):
    save_file(logits, tmp_path / "logits.safetensors")
    torch.save({int(layer): values for layer, values in logits.items()}, tmp_path / "logits.pt")
    tables = [files_of(analyze(tmp_path / name, "--top-k", "2")) for name in ("logits.safetensors", "logits.pt")]
    for name in tables[0]:
        if name.endswith(".csv"):
            assert tables[0][name] == tables[1][name]
    folder = analyze(tmp_path / "logits.pt", "--top-k", "2", "--only", "layer_statistics,layer_activation")
    table = read_table(folder / "layer_statistics.csv")
    for place, layer in enumerate(("0", "1", "10")):
        counts = torch.bincount(logits[layer].topk(2).indices.flatten(), minlength=6)
        assert float(table["max_expert_ratio"][place]) == pytest.approx((counts.max() / counts.sum()).item(), rel=1e-6)
    table = read_table(folder / "layer_activation.csv")
    means = torch.cat([logits[layer].double().softmax(-1).flatten(0, 1).mean(0) for layer in ("0", "1", "10")])
    assert [float(cell) for cell in table["avg_activation"]] == pytest.approx(means.tolist(), rel=1e-9)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_what_are_no_logits(assert_fails, logits, tmp_path):
    out = ["-o", tmp_path / "x"]
    save_file(logits, tmp_path / "logits.safetensors")
    assert_fails(1, "analyze", tmp_path / "logits.safetensors", *out, parts=["--top-k"])
    assert_fails(1, "analyze", tmp_path / "logits.safetensors", "--top-k", "7", *out, parts=["6 experts"])
    torch.save({"0": Bomb()}, tmp_path / "bomb.pt")
    assert_fails(1, "analyze", tmp_path / "bomb.pt", "--top-k", "1", *out, parts=["bomb.pt"])
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    assert_fails(1, "analyze", tmp_path / "tensor.pt", "--top-k", "1", *out, parts=["dict"])
    save_file({"0": torch.zeros(3)}, tmp_path / "flat.safetensors")
    assert_fails(1, "analyze", tmp_path / "flat.safetensors", "--top-k", "1", *out, parts=["layer 0", "[T, E]"])
    data = (tmp_path / "logits.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-9])
    assert_fails(1, "analyze", tmp_path / "cut.safetensors", "--top-k", "1", *out, parts=["cut.safetensors"])
    assert not Path("executed").exists()


def repacked(source: Path, path: Path, records: dict, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """The archive with other bytes in some records, which are packed by `method`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            place = name.split("/", 1)[1]
            if place not in records:
                new.writestr(zipfile.ZipInfo(name), old.read(name))
        for place, data in records.items():
            info = zipfile.ZipInfo(old.namelist()[0].split("/", 1)[0] + "/" + place)
            info.compress_type = method
            new.writestr(info, data)
    return path


def test_zip_bombs_are_refused_before_they_are_unpacked(assert_fails, moetap, logits, tmp_path):
    torch.save(logits, tmp_path / "logits.pt")
    again = repacked(tmp_path / "logits.pt", tmp_path / "again.pt", {})
    assert moetap("analyze", again, "--top-k", "2", "-o", tmp_path / "again").returncode == 0
    bomb = bytes(1 << 28)
    for record in ("version", "data.pkl", "data/0", "more"):
        path = repacked(tmp_path / "logits.pt", tmp_path / "bomb.pt", {record: bomb})
        assert path.stat().st_size < 1 << 20
        assert_fails(1, "analyze", path, "--top-k", "2", "-o", tmp_path / "x", parts=["bomb.pt", "compressed"])
    # One record that says it is longer than the file, without compression.
    data = bytearray(again.read_bytes())
    place = data.rfind(b"PK\x01\x02")
    data[place + 20 : place + 28] = (1 << 30).to_bytes(4, "little") * 2
    (tmp_path / "long.pt").write_bytes(data)
    assert_fails(1, "analyze", tmp_path / "long.pt", "--top-k", "2", "-o", tmp_path / "x", parts=["larger than"])


@pytest.fixture(scope="module")
def attended(moetap, tmp_path_factory):
    """Runs of two texts, of 9 and 6 tokens, the second padded on the left: attention in full, and its statistics."""
    folder = tmp_path_factory.mktemp("attended")
    torch.manual_seed(0)
    torch.jit.script(Decoder(EagerAttention).eval()).save(folder / "model.pt")
    ids = torch.arange(18).reshape(2, 9) % VOCABULARY
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :3] = 0
    (folder / "in").mkdir()
    torch.save({"input_ids": ids, "attention_mask": mask, "past": no_past(2)}, folder / "in/0.pt")
    for mode in ("full", "stats"):
        for kind, sampled in (("", []), ("-sampled", ["--attention-sample", "3"])):
            options = ["--attention", mode, *sampled, "--dump", "full", "-o", folder / f"{mode}{kind}"]
            done = moetap("run", folder / "model.pt", "--inputs", folder / "in", *options)
            assert done.returncode == 0, done.stderr
    return folder


def test_attention_of_a_run_is_that_of_its_arrays(moetap, attended, analyze, tmp_path):
    assert moetap("export", attended / "full", "--to", "npy", "-o", tmp_path / "npy").returncode == 0
    of_run, of_arrays = analyze(attended / "full"), analyze(tmp_path / "npy")
    names = ("expert_attention_summary", "information_flow", "region_specialization", "sankey_token_expert")
    for name in names:
        assert (of_run / f"{name}.csv").read_bytes() == (of_arrays / f"{name}.csv").read_bytes(), name


@pytest.mark.parametrize("kind", ["", "-sampled"])
def test_statistics_of_attention_give_the_numbers_of_full(attended, analyze, kind):
    full, stats = analyze(attended / f"full{kind}"), analyze(attended / f"stats{kind}")
    keys = {"layer", "expert_id", "from_region", "to_region"}
    for name in ("information_flow", "expert_attention_summary"):
        a, b = read_table(full / f"{name}.csv"), read_table(stats / f"{name}.csv")
        assert list(a) == list(b)
        for column in a:
            if column in keys:
                assert a[column] == b[column]
            elif column != "strength_nb":
                for x, y in zip(a[column], b[column], strict=True):
                    assert (x == "") == (y == "") and float(x or 0) == pytest.approx(float(y or 0), abs=2e-5), column
    assert (stats / "region_specialization.csv").exists()


def test_gates_of_queries_that_were_not_measured_are_in_no_sum(attended, analyze):
    """Three queries of each of two samples are."""
    for mode in ("full", "stats"):
        all_queries, sampled = (
            [float(mass) for mass in read_table(analyze(run) / "expert_attention_summary.csv")["gate_mass"]]
            for run in (attended / mode, attended / f"{mode}-sampled")
        )
        assert 0 < sum(sampled) < 0.6 * sum(all_queries)  # 6 of 15


def test_residues_of_fasta_files(analyze, assert_fails, tmp_path):
    (tmp_path / "a.fasta").write_text(">1\nACAC\nAC\n>2\naacc\n")
    (tmp_path / "b.fasta").write_text(">3\nWWWW\n")
    folder = analyze("--positive", tmp_path / "a.fasta", "--negative", tmp_path / "b.fasta")
    table = read_table(folder / "aa_composition.csv")
    positive = dict(zip(table["residue"], table["positive"], strict=True))
    assert positive["A"] == positive["C"] == "0.5" and positive["W"] == "0"
    out = ["-o", tmp_path / "x"]
    assert_fails(1, "analyze", "--positive", tmp_path / "none.fasta", *out, parts=["none.fasta"])


def test_weights_of_a_model(analyze, recorded):
    model = recorded.parent / "moe.pt"
    weights = {name: value.detach().double().flatten() for name, value in torch.jit.load(model).named_parameters()}

    def cosine(name):
        return torch.nn.functional.cosine_similarity(weights[f"layers.0.{name}"], weights[f"layers.1.{name}"], dim=0)

    for inputs in ([], [recorded]):
        folder = analyze(*inputs, "--model", model, "--only", "weight_similarity")
        table = read_table(folder / "router_similarity.csv")
        pair = list(zip(table["layer_a"], table["layer_b"], strict=True)).index(("0", "1"))
        assert float(table["cosine"][pair]) == pytest.approx(cosine("gate.weight").item(), rel=1e-6)
        table = read_table(folder / "expert_weight_similarity.csv")
        a, b = (weights[f"layers.{layer}.experts"].reshape(4, -1) for layer in (0, 1))
        expected = torch.nn.functional.cosine_similarity(a, b, dim=1).mean().item()
        assert float(table["cosine"][table["experts"].index("4")]) == pytest.approx(expected, rel=1e-6)
