"""Whole forwards on a device through the built library: on the CPU everywhere, on CUDA where there is a GPU.

What only a GPU can show: bits with LibTorch's fusers, waits, allocations, streams and graphs.
"""

import ctypes
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

LIBRARY = Path(os.environ["MOETAP_LIB_DIR"]) / "libmoetap.so"
MOETAP = Path(os.environ["MOETAP_BIN_DIR"]) / "moetap"
WIDTH, EXPERTS, TOP_K, VOCABULARY = 64, 16, 4, 97

cuda = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or a LibTorch without CUDA")
)
DEVICES = ["cpu", cuda]


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH) / WIDTH**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.size(-1))
        scores = torch.softmax(self.gate(tokens), dim=-1)
        weights, selected = torch.topk(scores, 4, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        every = torch.matmul(tokens.unsqueeze(0), self.experts).transpose(0, 1)
        chosen = torch.gather(every, 1, selected.unsqueeze(-1).expand(-1, -1, x.size(-1)))
        y = (chosen * weights.unsqueeze(-1)).sum(dim=1)
        # Pointwise operations that a fuser takes together.
        return (torch.tanh(y) * torch.sigmoid(y) + y).reshape(x.shape)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([Layer() for _ in range(3)])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        for layer in self.layers:
            x = x + layer(x)
        return x


class Session:
    def __init__(self, folder: Path, **config):
        self.library = ctypes.CDLL(str(LIBRARY))
        self.library.moetap_open.restype = ctypes.c_void_p
        self.library.moetap_last_error.restype = ctypes.c_char_p
        self.folder = folder
        self.handle = ctypes.c_void_p(
            self.library.moetap_open(json.dumps({"output_dir": str(folder), **config}).encode())
        )
        assert self.handle, self.library.moetap_last_error()

    def flush(self):
        assert self.library.moetap_flush(self.handle) == 0

    def close(self) -> tuple[dict, dict]:
        assert self.library.moetap_close(self.handle) == 0
        about = self.folder / "moetap"
        return json.loads((about / "summary.json").read_text()), json.loads((about / "manifest.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def library():
    torch.ops.load_library(str(LIBRARY))
    torch.set_grad_enabled(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """The plain model and the instrumented one."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(3)
    torch.jit.script(Model().eval()).save(folder / "plain.pt")
    done = subprocess.run(
        [MOETAP, "instrument", folder / "plain.pt", "-o", folder / "moe.pt"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder / "plain.pt", folder / "moe.pt"


def inputs(device: str, batch: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.long)
    if length > 2:
        mask[0, :2] = 0
    return ids.to(device), mask.to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_outputs_have_the_same_bits(files, tmp_path, device, dtype):
    plain, moe = (torch.jit.load(file, map_location=device).to(dtype).eval() for file in files)
    session = Session(tmp_path / "run")
    for length in (5, 64):
        arguments = inputs(device, 2, length)
        for run in range(5):  # profiling, specialised, fused
            assert torch.equal(plain(*arguments), moe(*arguments)), f"run {run}, length {length}"
    summary, manifest = session.close()
    assert summary["forwards"] == 10
    assert manifest["counters"]["failed_hooks"] == 0


@pytest.fixture
def fusing(device):
    """The fuser of tensor expressions, which LibTorch uses by default on CUDA only; on the CPU it interprets them."""
    if device == "cuda":
        yield
        return
    before = torch._C._jit_can_fuse_on_cpu(), torch._C._jit_get_te_must_use_llvm_cpu()
    torch._C._jit_override_can_fuse_on_cpu(True)
    torch._C._jit_set_te_must_use_llvm_cpu(False)
    yield
    torch._C._jit_override_can_fuse_on_cpu(before[0])
    torch._C._jit_set_te_must_use_llvm_cpu(before[1])


def fused_groups(model: torch.jit.ScriptModule, arguments) -> list[list[str]]:
    """The operations of each fused group of the optimised graph, in order."""
    groups = []

    def visit(block):
        for node in block.nodes():
            if node.kind() == "prim::TensorExprGroup":
                operations = [inner.kind() for inner in node.g("Subgraph").nodes()]
                groups.append([kind for kind in operations if kind != "prim::Constant"])
            for inner in node.blocks():
                visit(inner)

    visit(model.graph_for(*arguments))
    return groups


@pytest.mark.parametrize("device", DEVICES)
def test_the_fuser_takes_the_same_operations_together(files, tmp_path, device, fusing):
    plain, moe = (torch.jit.load(file, map_location=device).eval() for file in files)
    session = Session(tmp_path / "run")
    arguments = inputs(device, 2, 5)
    for run in range(4):
        assert torch.equal(plain(*arguments), moe(*arguments)), f"run {run}"
    groups = fused_groups(plain, arguments)
    assert len(groups) >= 4, "nothing is fused: the test shows nothing"
    assert fused_groups(moe, arguments) == groups
    session.close()


def run_summary(files, folder, device, forwards, **config) -> dict:
    moe = torch.jit.load(files[1], map_location=device).eval()
    session = Session(folder, **config)
    for batch, length in forwards:
        moe(*inputs(device, batch, length, seed=length))
    summary, manifest = session.close()
    assert manifest["counters"]["failed_hooks"] == manifest["counters"]["dropped"] == 0
    return summary


def assert_same_summary(actual: dict, expected: dict) -> None:
    """Counts to the few tokens whose experts other kernels of LibTorch may choose, means to 1e-4."""
    assert actual["forwards"] == expected["forwards"]
    for layer, metrics in expected["components"]["language_model"].items():
        got = actual["components"]["language_model"][layer]
        assert got["tokens"] == metrics["tokens"]
        assert sum(got["selected_count"]) == sum(metrics["selected_count"])
        for name in ("entropy_all", "entropy_topk", "margin", "router_z_loss", "balance_loss"):
            assert got[name] == pytest.approx(metrics[name], rel=1e-4), (layer, name)
        off = sum(abs(a - b) for a, b in zip(got["selected_count"], metrics["selected_count"], strict=True))
        assert off <= 0.005 * sum(metrics["selected_count"]), layer


FORWARDS = [(2, 7), (2, 7), (3, 200), (1, 1), (4, 1), (2, 900)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [{}, {"log_per_token": False}, {"dump": "full"}], ids=str)
def test_the_summary_is_that_of_the_cpu(files, tmp_path, device, config):
    expected = run_summary(files, tmp_path / "cpu", "cpu", FORWARDS)
    assert_same_summary(run_summary(files, tmp_path / "run", device, FORWARDS, **config), expected)


@pytest.mark.parametrize("device", [cuda])
@pytest.mark.parametrize("log_per_token", [True, False])
@pytest.mark.parametrize("length", [1, 600])
def test_a_forward_neither_waits_nor_allocates(files, tmp_path, device, log_per_token, length):
    moe = torch.jit.load(files[1], map_location=device).eval()
    session = Session(tmp_path / "run", log_per_token=log_per_token, probe_tokens=0)
    arguments = inputs(device, 4, length)
    for _ in range(8):
        moe(*arguments)
        session.flush()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["num_device_alloc"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            moe(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["num_device_alloc"] == before
    assert session.close()[0]["forwards"] == 28


@pytest.mark.parametrize("device", [cuda])
def test_streams_at_once(files, tmp_path, device):
    moe = torch.jit.load(files[1], map_location=device).eval()
    expected = run_summary(files, tmp_path / "one", device, [(2, 33)] * 12)
    session = Session(tmp_path / "run")
    streams = [torch.cuda.Stream() for _ in range(4)]
    arguments = inputs(device, 2, 33, seed=33)
    torch.cuda.synchronize()
    for i in range(12):
        with torch.cuda.stream(streams[i % 4]):
            moe(*arguments)
    torch.cuda.synchronize()
    summary, _ = session.close()
    assert summary["components"] == expected["components"]


@pytest.mark.parametrize("device", [cuda])
def test_replays_of_a_graph(files, tmp_path, device):
    plain, moe = (torch.jit.load(file, map_location=device).eval() for file in files)
    arguments = inputs(device, 2, 40, seed=40)
    expected = run_summary(files, tmp_path / "one", device, [(2, 40)] * 9)
    session = Session(tmp_path / "run")
    for _ in range(4):
        moe(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = moe(*arguments)
    for _ in range(3):
        graph.replay()
    session.flush()
    for _ in range(2):
        graph.replay()
    assert torch.equal(output, plain(*arguments))
    summary, manifest = session.close()
    assert manifest["counters"]["replayed"] == 5
    assert summary["forwards"] == 9
    assert summary["components"] == expected["components"]
