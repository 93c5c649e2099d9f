"""One choice for a whole sample, task or frame group; several gates over the same experts."""

import surroundings
import torch
import torch.nn.functional as F
from parts import BATCH, DIM, EXPERTS, VOCAB, BankMoE, Expert, ListMoE, hidden_states, idiom, input_ids
from recorder import on, seen, used, used_dense
from torch import nn


def task_input() -> dict[str, torch.Tensor]:
    return {**surroundings.right_padded(), "task_id": torch.tensor([2, 0])}


@idiom("script", wrap="none", layout="b", inputs=task_input)
class TaskEmbeddingRoutesSamples(nn.Module):
    """MOELoRA: an embedding of the sample's task is projected; all of its tokens take the same adapters."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.task = nn.Embedding(4, 5)
        self.gate = nn.Linear(5, EXPERTS)
        nn.init.normal_(self.gate.weight, std=1.0)
        self.a = nn.Parameter(torch.randn(EXPERTS, DIM, 3) * 0.4)
        self.b = nn.Parameter(torch.randn(EXPERTS, 3, DIM) * 0.4)
        self.base = nn.Linear(DIM, DIM)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, task_id: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids) * (0.5 + 0.5 * attention_mask.unsqueeze(-1))
        logits = self.gate(self.task(task_id))
        w, ids = torch.topk(torch.softmax(logits, dim=-1), 2, dim=-1)
        w = w / w.sum(-1, keepdim=True)
        h = torch.einsum("bsd,bkdr->bksr", x, self.a[ids])
        y = torch.einsum("bksr,bkrd,bk->bsd", h, self.b[ids], w)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w)
        return self.base(x) + y


@idiom("trace", wrap="none", layout="b", inputs=surroundings.right_padded)
class MaskedMeanRoutesSamples(nn.Module):
    """Sentence-level routing: the mean of the tokens that are no padding, repeated to all of them."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe = ListMoE()

    def forward(self, input_ids, attention_mask):
        x, moe = self.emb(input_ids), self.moe
        m = attention_mask.unsqueeze(-1).to(x.dtype)
        pooled = (x * m).sum(1) / m.sum(1).clamp(min=1e-9)
        logits = moe.gate(pooled)
        w, ids = F.softmax(logits, dim=-1).topk(2, dim=-1)
        dense = torch.zeros_like(logits).scatter(-1, ids, w)
        out = torch.zeros_like(x)
        for e, expert in enumerate(moe.experts):
            out = out + expert(x) * dense[:, e].view(-1, 1, 1)
        if on():
            seen(logits)
            used(moe, ids, w)
        return x + out


@idiom("script", wrap="none", layout="b", batch=3, inputs=lambda: {"pixel_values": torch.randn(3, 3, 6, 6)})
class ImageDispatcher(nn.Module):
    """Image restoration: one expert of convolutions an image, by a sparse dispatcher over the batch."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, DIM, 3, padding=1)
        self.router = nn.Linear(DIM, EXPERTS)
        nn.init.normal_(self.router.weight, std=3.0)
        self.experts = nn.ModuleList([nn.Conv2d(DIM, DIM, 3, padding=1) for _ in range(EXPERTS)])
        self.out = nn.Conv2d(DIM, 3, 1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        x = self.stem(pixel_values)
        logits = self.router(x.mean(dim=[2, 3]))
        w, ids = torch.topk(torch.softmax(logits, dim=-1), 1, dim=-1)
        gates = torch.zeros_like(logits).scatter_(1, ids, w)
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            rows = torch.nonzero(gates[:, e]).flatten()
            if rows.numel() > 0:
                y[rows] = expert(x[rows]) * gates[rows, e].view(-1, 1, 1, 1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w)
        return self.out(x + y)


def of_both_tasks(rows: int) -> list[tuple[int, int]]:
    return [(row // 2, -1) for row in range(rows)]


@idiom("trace", wrap="none", layout=None, batch=5, as_sets=True, inputs=lambda: {"features": torch.randn(5, DIM)})
class GatesOfAllTasksInOne(nn.Module):
    """Sparse multi-gate experts of a recommender: the gates of all tasks are one parameter [tasks, D, E]."""

    def __init__(self):
        super().__init__()
        self.gates = nn.Parameter(torch.randn(2, DIM, EXPERTS) * 0.5)
        self.experts = nn.ModuleList([Expert() for _ in range(EXPERTS)])
        self.towers = nn.ModuleList([nn.Linear(DIM, 1) for _ in range(2)])

    def forward(self, features):
        logits = torch.einsum("bd,tde->bte", features, self.gates)
        top, ids = logits.topk(2, dim=-1)
        w = top.softmax(-1)
        dense = torch.zeros_like(logits).scatter(-1, ids, w)
        outs = torch.stack([expert(features) for expert in self.experts], dim=1)
        mixed = torch.einsum("bte,bed->btd", dense, outs)
        if on():
            seen(logits)
            used(self, ids, w)
        return torch.cat([tower(mixed[:, t]) for t, tower in enumerate(self.towers)], dim=-1)


@idiom("script", wrap="none", calls=3, layout=None, inputs=lambda: {"features": torch.randn(5, DIM)})
class ExtractionWithPicks(nn.Module):
    """PLE whose gates keep the best two of their own and shared experts; the shared gate sees all."""

    def __init__(self):
        super().__init__()
        self.shared = nn.ModuleList([Expert() for _ in range(2)])
        self.first = nn.ModuleList([Expert() for _ in range(2)])
        self.second = nn.ModuleList([Expert() for _ in range(2)])
        self.gate_first, self.gate_second = nn.Linear(DIM, 4), nn.Linear(DIM, 4)
        self.gate_shared = nn.Linear(DIM, 6)

    def pick(self, logits: torch.Tensor, outs: torch.Tensor) -> torch.Tensor:
        top, ids = torch.topk(logits, 2, dim=1)
        w = torch.softmax(top, dim=1)
        picked = torch.gather(outs, 1, ids.unsqueeze(-1).expand(-1, -1, outs.size(2)))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w)
        return torch.bmm(w.unsqueeze(1), picked).squeeze(1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        own: list[torch.Tensor] = []
        for expert in self.first:
            own.append(expert(features))
        other: list[torch.Tensor] = []
        for expert in self.second:
            other.append(expert(features))
        common: list[torch.Tensor] = []
        for expert in self.shared:
            common.append(expert(features))
        a = self.pick(self.gate_first(features), torch.stack(own + common, dim=1))
        b = self.pick(self.gate_second(features), torch.stack(other + common, dim=1))
        c = self.pick(self.gate_shared(features), torch.stack(own + other + common, dim=1))
        return torch.cat([a, b, c], dim=1)


@idiom(
    "script",
    wrap="none",
    layout=None,
    inputs=lambda: {**input_ids(), "cluster": torch.tensor([3, 1])},
)
class ClusterGateWithUniversal(nn.Module):
    """MoCLE: the instruction's cluster picks one expert; a universal one gets what its gate leaves of one."""

    def __init__(self):
        super().__init__()
        self.emb, self.cluster_emb = nn.Embedding(VOCAB, DIM), nn.Embedding(4, 6)
        self.gate = nn.Linear(6, EXPERTS, bias=False)
        self.moe = BankMoE(k=1)
        self.universal = Expert()

    def forward(self, input_ids: torch.Tensor, cluster: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        logits = self.gate(self.cluster_emb(cluster)) / 0.05
        probs = torch.softmax(logits, dim=-1)
        top, ids = probs.max(dim=-1)
        h = torch.relu(torch.bmm(x, self.moe.w1[ids]))
        y = torch.bmm(h, self.moe.w2[ids])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids.unsqueeze(-1), top.unsqueeze(-1))
        return x + top.view(-1, 1, 1) * y + (1 - top).view(-1, 1, 1) * self.universal(x)


@idiom("script", wrap="none", inputs=lambda: {**input_ids(), "language": torch.tensor([1, 2])})
class GateOfTheLanguage(nn.Module):
    """Each language has a gate of its own, looked up for each sample."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.gates = nn.Parameter(torch.randn(3, EXPERTS, DIM) * 0.5)
        self.moe = ListMoE()

    def forward(self, input_ids: torch.Tensor, language: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        logits = torch.bmm(x, self.gates[language].transpose(1, 2))
        w, ids = torch.topk(torch.softmax(logits, dim=-1), 2, dim=-1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.moe.experts):
            out = out + (w * (ids == e)).sum(-1, keepdim=True) * expert(x)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids, w, x, out)
        return x + out


def frames() -> dict[str, torch.Tensor]:
    return {"speech": torch.randn(BATCH, 7, 8), "speech_lengths": torch.tensor([7, 5])}


@idiom("script", wrap="none", inputs=frames, layout="bs")
class ConformerFrames(nn.Module):
    """Speech: frames with lengths instead of a mask, a shared embedding beside each frame for the router."""

    def __init__(self):
        super().__init__()
        self.front = nn.Linear(8, DIM)
        self.shared_emb = nn.Linear(DIM, 4)
        self.router = nn.Linear(DIM + 4, EXPERTS)
        nn.init.normal_(self.router.weight, std=0.6)
        self.moe = ListMoE(k=1)

    def forward(self, speech: torch.Tensor, speech_lengths: torch.Tensor) -> torch.Tensor:
        x = self.front(speech)
        closed = torch.arange(x.size(1)) >= speech_lengths.unsqueeze(1)
        x = x.masked_fill(closed.unsqueeze(-1), 0.0)
        flat = x.reshape(-1, x.size(-1))
        logits = self.router(torch.cat([flat, torch.tanh(self.shared_emb(flat))], dim=-1))
        prob, ids = torch.softmax(logits, dim=-1).max(dim=-1, keepdim=True)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.moe.experts):
            token = torch.where(ids == e)[0]
            out[token] = prob[token] * expert(flat[token])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids, prob, flat, out)
        return x + 0.5 * out.view_as(x)


@idiom("script", wrap="none", inputs=hidden_states, layout="b", as_sets=True)
class ScalesOfASeries(nn.Module):
    """Pathformer: each series picks two of four patch sizes by its mean over time; experts cut it differently."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(DIM, 4)
        nn.init.normal_(self.gate.weight, std=2.0)
        self.scales = nn.ModuleList([nn.Conv1d(DIM, DIM, 2 * n + 1, padding=n) for n in range(4)])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = hidden_states
        logits = self.gate(x.mean(dim=1))
        top, ids = torch.topk(logits, 2, dim=1)
        w = torch.softmax(top, dim=1)
        gates = torch.zeros_like(logits).scatter(1, ids, w)
        y = torch.zeros_like(x)
        for e, scale in enumerate(self.scales):
            rows = torch.nonzero(gates[:, e]).squeeze(-1)
            part = scale(x[rows].transpose(1, 2)).transpose(1, 2)
            y = y.index_add(0, rows, part * gates[rows, e].view(-1, 1, 1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w)
        return x + y


@idiom("script", wrap="none", inputs=lambda: {"hidden_states": torch.randn(11, DIM)}, layout=None, calls=2)
class NodesOfAGraph(nn.Module):
    """Graph experts: nodes are rows; experts aggregate over different numbers of hops, the readout is routed again."""

    def __init__(self):
        super().__init__()
        self.gate, self.again = nn.Linear(DIM, 3), nn.Linear(DIM, EXPERTS)
        self.hops = nn.ModuleList([nn.Linear(DIM, DIM) for _ in range(3)])
        self.moe = ListMoE(k=1)
        self.register_buffer("adjacency", (torch.rand(11, 11) > 0.6).float() / 4)
        self.e, self.close = 3, 1e-4

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = hidden_states
        logits = self.gate(x)
        w, ids = torch.topk(logits.softmax(dim=-1), 1, dim=-1)
        mask = torch.zeros_like(logits).scatter(1, ids, 1.0)
        outs: list[torch.Tensor] = []
        h = x
        for n, hop in enumerate(self.hops):
            h = self.adjacency @ h
            outs.append(hop(h) * mask[:, n : n + 1])
        y = x + w * torch.stack(outs, dim=0).sum(0)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w)
        scores = torch.sigmoid(self.again(y))
        value, index = scores.max(dim=1, keepdim=True)
        out = torch.zeros_like(y)
        for e, expert in enumerate(self.moe.experts):
            rows = torch.where(index.squeeze(1) == e)[0]
            out[rows] = expert(y[rows]) * value[rows]
        if not torch.jit.is_scripting():
            seen(self.again(y))
            used(self.moe, index, value, y, out)
        return y + out


@idiom("script", wrap="padded", as_sets=True)
class DenseAfterAll(ListMoE):
    """Two experts by threshold of the softmax, a share of the rest spread over all: every expert has a weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        top, ids = torch.topk(logits, self.k, dim=-1)
        sparse = torch.zeros_like(logits).scatter(-1, ids, torch.softmax(top, dim=-1))
        w = 0.9 * sparse + 0.1 / self.e
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            out = out + w[:, e : e + 1] * expert(flat)
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, w, flat, out)
        return out.view_as(x)
