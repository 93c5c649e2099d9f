"""The forwards of a run, and what ends it early."""

import json

import pytest
import torch
from moe_model import NUM_EXPERTS, VOCABULARY, WIDTH, MoeBlock, moe_inputs
from safetensors.torch import load_file, save_file
from torch import nn


def test_an_input_that_fails_later_keeps_the_forwards_before_it_but_not_the_done_marker(moetap, models, tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    values = moe_inputs(1, 4, seed=0)
    save_file(values, folder / "0.safetensors")
    save_file({**values, "input_ids": values["input_ids"] + 1000}, folder / "1.safetensors")
    done = moetap("run", models / "moe.pt", "--inputs", folder, "-o", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "1.safetensors" in done.stderr
    assert "1 of 2 forwards" in done.stderr
    assert len(json.loads((tmp_path / "run" / "log_metrics.json").read_text())["logs"]) == 1
    assert not (tmp_path / "run" / "rank0_metric_eval_done.txt").exists()


def test_a_run_goes_on_while_one_hook_reports(moetap, models, inputs, failing_hooks, tmp_path):
    run = tmp_path / "run"
    done = moetap("run", models / "moe.pt", "--inputs", inputs, "-o", run, "--hooks", failing_hooks("0"))
    assert done.returncode == 0, done.stderr
    assert "1 hooks stopped after a failure" in done.stdout
    assert (run / "rank0_metric_eval_done.txt").exists()
    assert json.loads((run / "moetap" / "manifest.json").read_text())["counters"]["failed_hooks"] == 1


def test_a_run_whose_every_hook_stops_fails(moetap, assert_fails, models, inputs, failing_hooks, tmp_path):
    spec = failing_hooks("\\d+")
    parts = [
        "0.safetensors: every hook has stopped",
        "layers.0.gate",
        "selected must hold integers",
        "nothing was written",
    ]
    assert_fails(1, "run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", "--hooks", spec, parts=parts)
    assert not (tmp_path / "run").exists()


class ShiftedBlock(MoeBlock):
    """Numbers its experts from `shift` on."""

    def __init__(self):
        super().__init__()
        self.experts = nn.Parameter(torch.randn(2 * NUM_EXPERTS, WIDTH, WIDTH))

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.size(-1))
        weights, selected = torch.topk(torch.softmax(self.gate(tokens), dim=-1), 2, dim=-1)
        outputs = torch.einsum("td,tkdf->tkf", tokens, self.experts[torch.remainder(selected + shift, 8)])
        return (outputs * weights.unsqueeze(-1)).sum(dim=1).reshape(x.shape)


class ShiftedModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([ShiftedBlock(), ShiftedBlock()])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        for layer in self.layers:
            x = x + layer(x, shift)
        return x


def test_what_was_recorded_before_every_hook_stopped_stays(assert_fails, tmp_path):
    """The spec names the shifted ids as the selected ones: from the third input on they are out of range."""
    torch.jit.script(ShiftedModel()).save(tmp_path / "model.pt")
    files = [tmp_path / f"{index}.safetensors" for index in range(4)]
    for index, file in enumerate(files):
        shift = torch.tensor(0 if index < 2 else NUM_EXPERTS)
        save_file({**moe_inputs(1, 3, seed=index), "shift": shift}, file)
    spec = tmp_path / "spec.json"
    entry = {"module": "layers\\.\\d+", "selected": {"op": "aten::remainder", "output": 0}, "num_experts": NUM_EXPERTS}
    spec.write_text(json.dumps([entry]))
    run = tmp_path / "run"
    parts = [f"{files[2]}: every hook has stopped", "in [0, 4)", "2 of 4 forwards finished and are in"]
    assert_fails(1, "run", tmp_path / "model.pt", "--inputs", *files, "-o", run, "--hooks", spec, parts=parts)
    assert not (run / "rank0_metric_eval_done.txt").exists()
    summary = json.loads((run / "moetap" / "summary.json").read_text())
    assert [summary["components"]["language_model"][layer]["tokens"] for layer in "01"] == [6, 6]
    # Its files can be written anew, but it stays a run that is not done, and nothing writes over it.
    assert_fails(1, "recover", run, parts=["every hook stopped after a failure, so the run is not marked as done"])
    assert not (run / "rank0_metric_eval_done.txt").exists()
    assert (run / "moetap" / "journal").exists()


class NoisyModel(nn.Module):
    """Adds noise to the logits in eval mode too, and returns them."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.gate = nn.Linear(WIDTH, NUM_EXPERTS, bias=False)
        self.experts = nn.Parameter(torch.randn(NUM_EXPERTS, WIDTH, WIDTH))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        tokens = self.embedding(input_ids).flatten(0, 1)
        logits = self.gate(tokens)
        logits = logits + torch.randn_like(logits)
        weights, selected = torch.topk(torch.softmax(logits, dim=-1), 2, dim=-1)
        outputs = torch.einsum("td,tkdf->tkf", tokens, self.experts[selected])
        return (outputs * weights.unsqueeze(-1)).sum(dim=1)


@pytest.fixture
def noisy_run(moetap, tmp_path):
    """Runs a model that draws noise over `inputs`; gives the exit status, outputs and summary."""
    torch.manual_seed(0)
    torch.jit.script(NoisyModel()).save(tmp_path / "noisy.pt")

    def run(inputs, name: str, *options) -> tuple[int, list[torch.Tensor], dict]:
        run_directory = tmp_path / name
        done = moetap(
            *("run", tmp_path / "noisy.pt", "--inputs", inputs, "-o", run_directory, "--save-outputs", *options)
        )
        about = run_directory / "moetap"
        outputs = [load_file(file)["output"] for file in sorted((about / "outputs").glob("*"))]
        return (
            done.returncode,
            outputs,
            {name: json.loads((about / f"{name}.json").read_text()) for name in ("summary", "manifest")},
        )

    return run


@pytest.fixture
def token_files(tmp_path):
    folder = tmp_path / "tokens"
    folder.mkdir()
    for index in range(4):
        save_file({"input_ids": moe_inputs(2, 3, seed=index)["input_ids"]}, folder / f"{index}.safetensors")
    return folder


def assert_same(outputs: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(outputs) == len(expected)
    for output, other in zip(outputs, expected, strict=True):
        assert torch.equal(output, other)


@pytest.mark.parametrize("seed", [0, 5, 2**62])
def test_each_forward_draws_what_python_draws_with_its_seed(noisy_run, token_files, tmp_path, seed):
    status, outputs, files = noisy_run(token_files, "run", *(() if seed == 0 else ("--seed", seed)))
    assert status == 0
    assert files["manifest"]["config"]["seed"] == seed
    module = torch.jit.load(tmp_path / "noisy.pt").eval()
    expected = []
    for index, file in enumerate(sorted(token_files.iterdir())):
        torch.manual_seed(seed + index)
        expected.append(module(**load_file(file)))
    assert_same(outputs, expected)


def test_a_resumed_run_draws_what_an_undisturbed_one_does(noisy_run, token_files):
    _, expected, undisturbed = noisy_run(token_files, "undisturbed", "--seed", 3)
    file = token_files / "2.safetensors"
    right = load_file(file)
    save_file({"input_ids": right["input_ids"] + 1000}, file)
    status, outputs, _ = noisy_run(token_files, "run", "--seed", 3)
    assert status == 1
    assert_same(outputs, expected[:2])
    save_file(right, file)
    status, outputs, files = noisy_run(token_files, "run", "--seed", 3, "--resume")
    assert status == 0
    assert files["manifest"]["resumed"] == 1
    assert_same(outputs, expected)
    assert files["summary"] == undisturbed["summary"]


def test_a_run_is_resumed_with_its_seed_only(noisy_run, assert_fails, token_files, tmp_path):
    file = token_files / "1.safetensors"
    save_file({"input_ids": load_file(file)["input_ids"] + 1000}, file)
    assert noisy_run(token_files, "run")[0] == 1
    command = ["run", tmp_path / "noisy.pt", "--inputs", token_files, "-o", tmp_path / "run", "--resume", "--seed", 1]
    assert_fails(2, *command, parts=['"seed"'])


@pytest.mark.parametrize("seed", ["-1", "x", "1.5", str(2**63)])
def test_a_seed_that_is_none(assert_fails, models, inputs, tmp_path, seed):
    command = ["run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", f"--seed={seed}"]
    assert_fails(2, *command, parts=["--seed", "an integer >= 0"])


class BranchedModel(nn.Module):
    """Takes the first router only for a text of one token, the second only for longer ones, the third never."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.short = MoeBlock()
        self.long = MoeBlock()
        self.never = MoeBlock()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids)
        if input_ids.size(1) == 1:
            x = self.short(x)
        elif input_ids.size(1) < 10:
            x = self.long(x)
        for _ in range(input_ids.size(1) // 1000):
            x = self.never(x)
        return x


@pytest.fixture
def branched_run(moetap, tmp_path):
    """Runs the model on texts of these lengths; gives the process, the manifest and whether the run is done."""
    torch.jit.script(BranchedModel()).save(tmp_path / "branched.pt")

    def run(*lengths: int):
        folder = tmp_path / "texts"
        folder.mkdir()
        for index, length in enumerate(lengths):
            save_file({"input_ids": torch.zeros(1, length, dtype=torch.long)}, folder / f"{index}.safetensors")
        done = moetap("run", tmp_path / "branched.pt", "--inputs", folder, "-o", tmp_path / "run")
        manifest = json.loads((tmp_path / "run" / "moetap" / "manifest.json").read_text())
        return done, manifest, (tmp_path / "run" / "rank0_metric_eval_done.txt").exists()

    return run


def reported(manifest: dict) -> dict[str, bool]:
    return {hook["name"].split(".")[0]: hook["reported"] for hook in manifest["hooks"]}


def test_hooks_in_arms_that_were_not_taken_are_named(branched_run):
    done, manifest, is_done = branched_run(3, 4)
    assert done.returncode == 0
    assert is_done
    line = (
        '2 of 3 hooks never reported: "short.gate", "never.gate": no recorded forward took the arm of a branch, or '
        "made a turn of the loop, that holds them"
    )
    assert done.stderr == f"moetap: {line}\n"
    assert manifest["notices"][line] == 1
    assert reported(manifest) == {"short": False, "long": True, "never": False}


def test_a_hook_counts_once_it_has_reported_in_one_forward(branched_run):
    done, manifest, _ = branched_run(3, 1)
    assert '1 of 3 hooks never reported: "never.gate": ' in done.stderr
    assert reported(manifest) == {"short": True, "long": True, "never": False}


def test_a_run_in_which_no_hook_reported_fails(branched_run):
    done, manifest, is_done = branched_run(20, 30)
    assert done.returncode == 1
    assert not is_done
    assert done.stderr.count("\n") == 1
    assert '3 of 3 hooks never reported: "short.gate", "long.gate", "never.gate": ' in done.stderr
    assert reported(manifest) == {"short": False, "long": False, "never": False}
