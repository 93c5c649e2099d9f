"""Which sample, position and token each row of the dump is, in models of many layouts; B = S, so that no size tells."""

import json
import zipfile

import pytest
import torch
from conftest import assert_succeeded
from moe_model import VOCABULARY, WIDTH, MoeBlock
from safetensors.torch import load_file, save_file
from torch import nn

B = S = 4
SAMPLES = torch.arange(B).repeat_interleave(S)
POSITIONS = torch.arange(S).repeat(B)


def in_sequence_order(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(B, S).t().reshape(-1)


class Model(nn.Module):
    """`way` leads from what the parts make to the block's input, and the arguments of forward to it."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.first = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.attention = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList([MoeBlock()])

    def attend(self, x: torch.Tensor, masked) -> torch.Tensor:
        """x: [B, S, WIDTH]."""
        scores = masked(torch.matmul(self.attention(x), x.transpose(1, 2)))
        return x + torch.matmul(torch.softmax(scores, -1), x)

    def forward(self, *arguments):
        return self.layers[0](self.way(self, *arguments))


@pytest.fixture
def dump(moetap, tmp_path):
    """Traces Model(way), runs it, and gives the only shard's tensors and the number of log entries."""

    def run(way, arguments: dict[str, torch.Tensor], *options: str):
        torch.manual_seed(0)
        names = ", ".join(arguments)
        spelled = type("Named", (Model,), {})
        scope: dict = {}
        exec(f"def forward(self, {names}):\n    return self.layers[0](self.way(self, {names}))", scope)
        spelled.forward = scope["forward"]
        model = torch.jit.trace(spelled(way).eval(), tuple(arguments.values()), check_trace=False)
        model.save(tmp_path / "model.pt")
        save_file({name: tensor.contiguous() for name, tensor in arguments.items()}, tmp_path / "in.safetensors")
        run_directory = tmp_path / "run"
        done = moetap("run", tmp_path / "model.pt", "--inputs", tmp_path / "in.safetensors", "-o", run_directory,
                      "--dump", "topk", *options)  # fmt: skip
        (shard,) = (run_directory / "moetap/dump/rank0").glob("*.safetensors")
        entries = json.loads((run_directory / "log_metrics.json").read_text())["logs"]
        return load_file(shard), len(entries), done

    return run


def ids(seed: int = 1) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (B, S), generator=torch.Generator().manual_seed(seed))


def padded() -> torch.Tensor:
    """1 for tokens: sequence b has 4 - b of them."""
    return (torch.arange(S) < S - torch.arange(B).unsqueeze(1)).long()


def expect(rows: dict[str, torch.Tensor], sample, position, token_id=None) -> None:
    assert rows["sample"].tolist() == sample.tolist()
    assert rows["position"].tolist() == position.tolist()
    if token_id is not None:
        assert rows["token_id"].tolist() == token_id.tolist()


SEQUENCE_FIRST = {
    "transpose": lambda m, ids: m.embedding(ids).transpose(0, 1),
    "permute": lambda m, ids: m.embedding(ids).permute(1, 0, 2).contiguous(),
    "transpose_ids": lambda m, ids: m.embedding(ids.t()),
    "flat": lambda m, ids: m.embedding(ids).transpose(0, 1).reshape(-1, WIDTH),
    "flatten": lambda m, ids: m.embedding(ids.t()).flatten(0, 1),
    "sizes": lambda m, ids: m.embedding(ids).transpose(0, 1).reshape(ids.size(1) * ids.size(0), WIDTH),
}


@pytest.mark.parametrize("way", SEQUENCE_FIRST)
def test_sequence_first(dump, way):
    rows, entries, done = dump(SEQUENCE_FIRST[way], {"input_ids": ids()})
    assert_succeeded(done)
    expect(rows, *map(in_sequence_order, (SAMPLES, POSITIONS, ids())))
    assert entries == B


@pytest.mark.parametrize("way", [lambda m, ids: m.embedding(ids), lambda m, ids: m.embedding(ids).view(-1, WIDTH)])
def test_batch_first(dump, way):
    rows, entries, _ = dump(way, {"input_ids": ids()})
    expect(rows, SAMPLES, POSITIONS, ids().reshape(-1))
    assert entries == B


def test_padding_follows_the_order(dump):
    rows, _, _ = dump(
        lambda m, ids, mask: (m.embedding(ids) * mask.unsqueeze(-1)).transpose(0, 1).reshape(-1, WIDTH),
        {"input_ids": ids(), "attention_mask": padded()},
    )
    kept = in_sequence_order(padded()).bool()
    expect(rows, *(in_sequence_order(column)[kept] for column in (SAMPLES, POSITIONS, ids())))


def test_hidden_states_of_both_orders(dump):
    states = torch.randn(B, S, WIDTH)
    rows, entries, _ = dump(lambda m, x: x.reshape(-1, WIDTH), {"inputs_embeds": states})
    expect(rows, SAMPLES, POSITIONS, torch.full((B * S,), -1))
    assert entries == B


def test_attention_shows_that_the_sequence_comes_first(dump):
    rows, _, _ = dump(
        lambda m, x: m.attend(x.transpose(0, 1), lambda s: s).transpose(0, 1).reshape(-1, WIDTH),
        {"src": torch.randn(S, B, WIDTH)},
    )
    expect(rows, in_sequence_order(SAMPLES), in_sequence_order(POSITIONS))


def test_images(dump):
    images = torch.randn(B, 3, 8, 8)
    rows, entries, done = dump(lambda m, x: m.patches(x).flatten(2).transpose(1, 2), {"pixel_values": images})
    assert_succeeded(done)
    expect(rows, SAMPLES, torch.arange(B * 4))
    assert entries == B
    assert rows["token_id"].unique().tolist() == [-1]


@pytest.mark.parametrize(
    "way",
    [
        lambda m, ids: m.embedding(ids).mean(1),
        lambda m, ids: m.embedding(ids)[:, 0],
        lambda m, ids: m.embedding(ids).transpose(0, 1).amax(0),
    ],
)
def test_pooled(dump, way):
    rows, entries, _ = dump(way, {"input_ids": ids()})
    expect(rows, torch.arange(B), torch.full((B,), -1), torch.full((B,), -1))
    assert entries == B


def test_image_and_text_behind_each_other(dump):
    rows, _, _ = dump(
        lambda m, pixels, ids: torch.cat([m.patches(pixels).flatten(2).transpose(1, 2), m.embedding(ids)], 1),
        {"pixel_values": torch.randn(B, 3, 8, 8), "input_ids": ids()},
    )
    token_ids = torch.cat([torch.full((B, 4), -1), ids()], 1)
    expect(rows, torch.arange(B).repeat_interleave(8), torch.arange(8).repeat(B), token_ids.reshape(-1))


MASKED = {
    "padding": (lambda s, m: s.masked_fill(m[:, None].bool(), -1e9), lambda valid: valid == 0),
    "valid": (lambda s, m: s.masked_fill(m[:, None] == 0, -1e9), lambda valid: valid),
    "one_minus": (lambda s, m: s + (1.0 - m[:, None]) * -1e9, lambda valid: valid.float()),
    "additive": (lambda s, m: s + m[:, None], lambda valid: (valid == 0) * -1e9),
    "no_padding": (lambda s, m: s + m[:, None], lambda valid: torch.zeros(valid.shape)),
}


@pytest.mark.parametrize("use", MASKED)
def test_what_a_mask_means_is_seen_in_its_use(dump, use):
    masked, made = MASKED[use]
    rows, _, _ = dump(
        lambda m, ids, keep: m.attend(m.embedding(ids), lambda scores: masked(scores, keep)),
        {"input_ids": ids(), "keep": made(padded())},
    )
    kept = torch.ones(B * S).bool() if use == "no_padding" else padded().reshape(-1).bool()
    expect(rows, SAMPLES[kept], POSITIONS[kept], ids().reshape(-1)[kept])


def test_a_mask_of_pairs_is_none(dump):
    causal = torch.ones(S, S).triu(1).bool()
    rows, _, _ = dump(
        lambda m, ids, mask, pad: m.attend(m.embedding(ids), lambda s: s.masked_fill(mask | pad[:, None], -1e9)),
        {"input_ids": ids(), "mask": causal, "src_key_padding_mask": padded() == 0},
    )
    kept = padded().reshape(-1).bool()
    expect(rows, SAMPLES[kept], POSITIONS[kept])


@pytest.mark.parametrize("means", ["valid", "padding"])
def test_the_user_says_what_a_mask_means(dump, means):
    rows, _, _ = dump(
        lambda m, ids, mask: m.embedding(ids) + 0 * mask.unsqueeze(-1),
        {"input_ids": ids(), "attention_mask": padded()},
        "--token-mask-means",
        means,
    )
    kept = padded().reshape(-1) == (1 if means == "valid" else 0)
    expect(rows, SAMPLES[kept], POSITIONS[kept])


def test_what_is_not_known_is_said_once(dump):
    rows, entries, done = dump(
        lambda m, ids: m.embedding(ids)[torch.argsort(ids[:, 0])].reshape(-1, WIDTH)[: S + 1], {"input_ids": ids()}
    )
    assert rows["sample"].unique().tolist() == [-1]
    assert done.stderr.count("belong to no sample") == 1
    assert entries == B


def test_the_layout_is_saved_with_the_model(moetap, dump, tmp_path):
    dump(SEQUENCE_FIRST["flat"], {"input_ids": ids()})
    done = moetap("instrument", tmp_path / "model.pt", "-o", tmp_path / "twin.pt")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "twin.pt") as twin:
        text = b"".join(twin.read(name) for name in twin.namelist())
    assert b'\\"role\\":\\"sequence\\"' in text
