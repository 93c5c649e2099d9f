"""What inspect says of a model."""

import json

from moe_model import NUM_EXPERTS, TOP_K


def test_inspect_of_a_model_without_routers_still_prints_json(moetap, models):
    done = moetap("inspect", models / "dense.pt", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["hooks"] == []


def test_inspect(moetap, models):
    done = moetap("inspect", models / "moe.pt", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["schema_version"] == 1
    assert report["model"] == str(models / "moe.pt")
    found = [hook for hook in report["hooks"] if hook["method"] == "forward"]
    assert [(hook["name"], hook["layer"], hook["kind"]) for hook in found] == [
        ("layers.0.gate", "0", "router"),
        ("layers.1.gate", "1", "router"),
    ]
    for hook in found:
        assert (hook["top_k"], hook["scoring"], hook["component"]) == (TOP_K, "softmax", "language_model")
        assert hook["num_experts"] in (NUM_EXPERTS, None)
    text = moetap("inspect", models / "moe.pt").stdout
    assert "layers.0.gate" in text
    assert "layers.1.gate" in text
