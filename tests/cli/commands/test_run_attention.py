"""What `moetap run --attention` records, however the same text comes: padded, cut into batches, step by step."""

import json
import os
import subprocess

import pytest
import torch
from attention_model import Decoder, EagerAttention, FusedAttention, no_past
from conftest import MOETAP
from moe_model import NUM_EXPERTS, VOCABULARY, WIDTH, MoeBlock
from torch import nn
from torch.nn import functional

TEXTS = [torch.arange(13) * 5 % VOCABULARY, torch.arange(9) * 7 % VOCABULARY]
ALL_MODES = ["stats", "full"]
# Half of the vocabulary each, so that a token's region does not depend on how many tokens there are.
BY_TOKEN = "tokens:even=" + ",".join(str(token) for token in range(0, VOCABULARY, 2))


def batch_of(texts: list[torch.Tensor], length: int, side: str) -> dict[str, torch.Tensor]:
    """The texts padded to a length on a side; the padding is a token of its own kind of region."""
    ids = torch.full((len(texts), length), 2)
    mask = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in enumerate(texts):
        place = slice(length - len(text), length) if side == "left" else slice(0, len(text))
        ids[row, place], mask[row, place] = text, 1
    return {"input_ids": ids, "attention_mask": mask, "past": no_past(len(texts))}


def steps_of(model: nn.Module, text: torch.Tensor, prompt: int) -> list[dict[str, torch.Tensor]]:
    """The forwards of a generation: the prompt, then one token each."""
    forwards = []
    past, begin = no_past(1), 0
    for end in range(prompt, len(text) + 1):
        forwards.append(
            {"input_ids": text[None, begin:end], "attention_mask": torch.ones(1, end, dtype=torch.long), "past": past}
        )
        _, past = model(**forwards[-1])
        begin = end
    return forwards


@pytest.fixture
def attention_of(moetap, tmp_path):
    """Runs a model over forwards; gives summary.json's attention and each log entry's."""

    def run(model: nn.Module, forwards: list[dict], *options: str) -> tuple[dict, list[dict]]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        (folder / "in").mkdir(parents=True)
        torch.jit.script(model).save(folder / "model.pt")
        for number, forward in enumerate(forwards):
            torch.save(forward, folder / "in" / f"{number:03}.pt")
        done = moetap("run", folder / "model.pt", "--inputs", folder / "in", "-o", folder / "run", *options)
        assert done.returncode == 0, done.stderr
        summary = json.loads((folder / "run/moetap/summary.json").read_text())["attention"]
        logs = json.loads((folder / "run/log_metrics.json").read_text())["logs"]
        return summary, [entry["logs_metrics_moe"] for entry in logs]

    return run


@pytest.fixture(params=[FusedAttention, EagerAttention])
def model(request) -> nn.Module:
    torch.manual_seed(0)
    return Decoder(request.param).eval()


def close(expected, tolerance: float = 1e-5):
    """As pytest.approx, of JSON of any depth."""
    if isinstance(expected, dict):
        return {name: close(value, tolerance) for name, value in expected.items()}
    if isinstance(expected, list):
        return [close(value, tolerance) for value in expected]
    return pytest.approx(expected, abs=tolerance) if isinstance(expected, float) else expected


def layers_of(summary: dict) -> dict:
    (layers,) = summary.values()
    assert len(layers) == 2
    return layers


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_nothing(attention_of, model, mode, side):
    plain = [batch_of([text], len(text), "right") for text in TEXTS]
    expected, expected_log = attention_of(model, plain, "--attention", mode)
    actual, log = attention_of(model, [batch_of(TEXTS, 17, side)], "--attention", mode)
    for layer in layers_of(expected).values():
        assert layer["rows"] == sum(map(len, TEXTS)) and layer["key_mass"] == close(1.0)
    assert actual == close(expected)
    for entry, expected_entry in zip(log, expected_log, strict=True):
        for component, layers in expected_entry.items():
            for number, values in layers.items():
                assert entry[component][number]["attention"] == close(values["attention"])


@pytest.mark.parametrize("mode", ALL_MODES)
@torch.no_grad()
def test_a_cache_changes_nothing_that_does_not_hang_on_the_number_of_keys(attention_of, model, mode):
    options = ["--attention", mode, "--attention-regions", BY_TOKEN, "--unlabelled", "follow"]
    expected, expected_log = attention_of(model, [batch_of([text], len(text), "right") for text in TEXTS], *options)
    steps = [forward for text in TEXTS for forward in steps_of(model, text, prompt=4)]
    actual, log = attention_of(model, steps, *options)
    same = ["rows", "empty_rows", "entropy", "max_weight", "key_mass", "distance", "self", "diagonal", "first"]
    same += ["region_mass", "flow", "head_entropy", "head_distance", "head_first", "head_max_logit"]
    for number, layer in layers_of(expected).items():
        found = layers_of(actual)[number]
        assert {name: found[name] for name in same} == close({name: layer[name] for name in same})
        assert len(layer["region_mass"]) == 2 and min(layer["region_mass"]) > 0
    assert len(log) == len(expected_log) == len(TEXTS)
    for entry, expected_entry in zip(log, expected_log, strict=True):
        for component, layers in expected_entry.items():
            for number, values in layers.items():
                assert entry[component][number]["attention"] == close(values["attention"])


class ExactModel(nn.Module):
    """All that is measured is computed from small integers, so a row does not hang on the batch that it stands in."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Embedding(VOCABULARY, 16) for _ in range(3))
        self.gate = nn.Linear(16, NUM_EXPERTS, bias=False)
        self.experts = nn.Parameter(torch.randn(NUM_EXPERTS, 16, 16))
        for parameter in self.parameters():
            parameter.data = torch.randint(-2, 3, parameter.shape).float()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.query(input_ids), self.key(input_ids), self.value(input_ids)
        keep = (attention_mask != 0).unsqueeze(1).unsqueeze(1)
        heads = [part.view(q.size(0), q.size(1), 2, 8).transpose(1, 2) for part in (q, k, v)]
        mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=keep)
        mixed = mixed.transpose(1, 2).reshape(q.shape)
        scores = torch.softmax(self.gate(q), dim=-1)
        weights, selected = torch.topk(scores, 2, dim=-1)
        outputs = torch.einsum("bsd,bskdf->bskf", mixed, self.experts[selected])
        return v + (outputs * weights.unsqueeze(-1)).sum(dim=2)


@pytest.mark.parametrize("sampled", [[], ["--attention-sample", "5"]], ids=["all", "sampled"])
@pytest.mark.parametrize("lengths", [[24] * 4, [24, 9, 17, 1]], ids=["equal", "padded"])
@torch.no_grad()
def test_batches_cut_in_any_way_give_the_same_bits(attention_of, lengths, sampled):
    torch.manual_seed(1)
    model = ExactModel().eval()
    texts = [torch.randint(VOCABULARY, (length,)) for length in lengths]

    def forward(some: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        batch = batch_of(some, max(map(len, some)), "right")
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    cuts = [[texts], [[text] for text in texts], [texts[:1], texts[1:]]]
    summaries = [attention_of(model, [forward(part) for part in cut], "--attention", "stats", *sampled) for cut in cuts]
    assert summaries[0] == summaries[1] == summaries[2]
    (layer,) = [layer for layers in summaries[0][0].values() for layer in layers.values()]
    assert layer["experts"]["router"] and sum(layer["experts"]["gate_mass"]) > 0


class LongModel(nn.Module):
    """One head, which looks back only: LibTorch's kernel holds no matrix of all queries and keys."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.moe = MoeBlock()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids)
        q, k, v = self.project(x).unsqueeze(1).chunk(3, dim=-1)
        x = x + functional.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)
        return x + self.moe(x)


@pytest.fixture
def peak_bytes(tmp_path):
    """The largest resident memory of a run over a text of some length."""
    torch.manual_seed(0)
    torch.jit.script(LongModel().eval()).save(tmp_path / "model.pt")

    def run(length: int, mode: str) -> int:
        name = f"{length}.{mode}"
        torch.save({"input_ids": torch.arange(length)[None] % VOCABULARY}, tmp_path / f"{name}.pt")
        command = ["run", "model.pt", "--inputs", f"{name}.pt", "-o", name, "--attention", mode, "--no-log-per-token"]
        with open(tmp_path / f"{name}.err", "w") as errors:
            process = subprocess.Popen([MOETAP, *command], cwd=tmp_path, stdout=errors, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, (tmp_path / f"{name}.err").read_text()
        process.returncode = 0
        if mode == "stats":
            summary = json.loads((tmp_path / name / "moetap/summary.json").read_text())["attention"]
            assert [layer["rows"] for layers in summary.values() for layer in layers.values()] == [length]
        return usage.ru_maxrss * 1024

    return run


@pytest.mark.skipif(bool(os.environ.get("MOETAP_SANITIZER")), reason="the sanitizers' own memory is not linear")
def test_stats_of_a_long_text_hold_no_matrix(peak_bytes):
    length = 16384
    matrix = length * length * 4  # 1 GiB
    half, whole = peak_bytes(length // 2, "stats"), peak_bytes(length, "stats")
    assert whole - peak_bytes(length, "off") < matrix / 16
    assert whole - half < matrix / 16
