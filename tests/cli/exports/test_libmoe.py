"""The folder of LibMoE's evaluation, as its readers look for it."""

import hashlib
import json
import re


def test_the_folder_has_the_name_that_readers_expect(recorded, export):
    (folder,) = [path for path in export(recorded, "--to", "libmoe").iterdir() if path.is_dir()]
    results = json.loads((folder / "results.json").read_text())
    arguments = results["model_configs"]["model_args"]
    digits = hashlib.sha256(arguments.encode()).hexdigest()[:6]
    log = json.loads((folder / "log_metrics.json").read_text())
    name = arguments.split(",")[0].split("/")[-1]
    assert folder.name == f"{log['time']}_log_metrics_{name}_model_args_{digits}"
    assert re.fullmatch(r"\d{4}_\d{4}", log["time"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "log_metrics.json",
        "rank0_metric_eval_done.txt",
        "results.json",
    ]
    assert (folder / "log_metrics.json").read_bytes() == (recorded / "log_metrics.json").read_bytes()
    # As LibMoE's readers reach the experts of a sample: two lists deep, flat, token-major.
    repeat = log["logs"][0]["logs_metrics_vision"][0][0]
    assert len(repeat["0"]["selected_experts"]) == 5 * 2


def test_a_long_suffix_is_cut(recorded, export):
    (folder,) = [
        path for path in export(recorded, "--to", "libmoe", "--suffix", "a" * 8 + "b" * 8).iterdir() if path.is_dir()
    ]
    assert "_aaaaa...bbbbb_" in folder.name
