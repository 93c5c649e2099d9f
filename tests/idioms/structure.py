"""Where routing stands in the program: named tuples, dicts, functions, flags, loops, modules shared, values changed."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from parts import DIM, EXPERTS, VOCAB, BankMoE, Expert, ListMoE, idiom
from recorder import on, seen, used
from scoring import Routed
from torch import nn


class RouterOutput(NamedTuple):
    logits: torch.Tensor
    weights: torch.Tensor
    indices: torch.Tensor


class NamedRouter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, DIM) * 0.5)

    def forward(self, x: torch.Tensor) -> RouterOutput:
        logits = F.linear(x, self.weight)
        weights, indices = torch.topk(logits.softmax(-1), 2, dim=-1)
        return RouterOutput(logits, weights, indices)


@idiom("script")
class NamedTupleRouter(ListMoE):
    def __init__(self):
        super().__init__()
        self.router = NamedRouter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        r = self.router(flat)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(r.indices == e)
            out[token] += expert(flat[token]) * r.weights[token, slot, None]
        if not torch.jit.is_scripting():
            seen(r.logits)
            used(self, r.indices, r.weights, flat, out)
        return out.view_as(x)


class DictRouter(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(DIM, EXPERTS)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.classifier(x)
        gates, idx = torch.topk(torch.sigmoid(logits), 2, dim=-1)
        gates = gates / gates.sum(-1, keepdim=True)
        return {"logits": logits, "gates": gates, "idx": idx, "z_loss": torch.logsumexp(logits, -1).pow(2).mean()}


@idiom("script")
class DictReturned(BankMoE):
    def __init__(self):
        super().__init__()
        self.router = DictRouter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        routing = self.router(flat)
        idx, gates = routing["idx"], routing["gates"]
        w1, w2 = self.w1[idx], self.w2[idx]
        h = torch.relu(torch.einsum("td,tkdf->tkf", flat, w1))
        out = torch.einsum("tkf,tkfd,tk->td", h, w2, gates)
        if not torch.jit.is_scripting():
            seen(routing["logits"])
            used(self, idx, gates, flat, out)
        return out.view_as(x)


def pick(logits: torch.Tensor, k: int, renormalise: bool) -> tuple[torch.Tensor, torch.Tensor]:
    weights, ids = torch.topk(logits.softmax(dim=-1), k, dim=-1)
    if renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, ids


@idiom("script")
class FreeFunctionFlag(ListMoE):
    def __init__(self):
        super().__init__()
        self.norm_topk_prob = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        logits = self.gate(flat)
        weights, ids = pick(logits, self.k, self.norm_topk_prob)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(ids == e)
            out.index_add_(0, token, expert(flat[token]) * weights[token, slot, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, weights, flat, out)
        return out.view_as(x)


@idiom("script")
class RuntimeBranchNorm(Routed):
    """Whether weights are normalised is decided while the model runs."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        weights, ids = torch.topk(logits.softmax(-1), self.k, dim=-1)
        if flat.size(0) > 4:  # noqa: SIM108 - as it is written
            weights = weights / weights.sum(dim=-1, keepdim=True)
        else:
            weights = weights * 2.0
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, weights


@idiom("script")
class OptionalBias(Routed):
    def __init__(self):
        super().__init__()
        self.bias: torch.Tensor | None = nn.Parameter(torch.randn(self.e))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        bias = self.bias
        choice = logits.sigmoid()
        if bias is not None:
            choice = choice + bias
        ids = torch.topk(choice, self.k, dim=-1)[1]
        weights = torch.gather(logits.sigmoid(), 1, ids)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, weights


@idiom("script")
class WeightsInPlace(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        weights, ids = torch.topk(logits.softmax(-1), self.k, dim=-1)
        weights.div_(weights.sum(-1, keepdim=True))
        weights *= 1.7
        weights.clamp_(max=1.2)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, weights


@idiom("script")
class LogitsInPlace(Routed):
    def __init__(self):
        super().__init__()
        self.register_buffer("load", torch.rand(self.e))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        logits -= self.load
        logits.mul_(0.8)
        weights, ids = torch.topk(logits, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, torch.softmax(weights, -1)


class Block(nn.Module):
    def __init__(self, moe: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.moe = moe

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.moe(self.norm(x))


class PlainMoE(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        weights, ids = torch.topk(logits.softmax(-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, weights


@idiom("script", wrap="none", calls=3)
class StackOfBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.layers = nn.ModuleList([Block(PlainMoE()) for _ in range(3)])
        self.head = nn.Linear(DIM, 4)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


@idiom("trace", wrap="none", calls=2)
class SharedNormTwoBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.norm = nn.LayerNorm(DIM)
        self.a, self.b = PlainMoE(), PlainMoE()

    def forward(self, input_ids):
        x = self.emb(input_ids)
        x = x + self.a(self.norm(x))
        return x + self.b(self.norm(x))


@idiom("script", wrap="none", calls=3)
class RecurrentSameLayer(nn.Module):
    """One block applied three times, in a loop."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.block = Block(PlainMoE())
        self.steps = 3

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        for _ in range(self.steps):
            x = self.block(x)
        return x


@idiom("script", wrap="none", calls=2)
class SharedGateTwoLayers(nn.Module):
    """Two layers of experts, one gate for both, called twice."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.a, self.b = PlainMoE(), PlainMoE()
        self.b.gate = self.a.gate

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        x = x + self.a(x)
        return x + self.b(x)


@idiom("script", wrap="none", calls=2)
class RoutedOnceUsedTwice(nn.Module):
    """Two layers, each with its router, aux outputs collected in a list and returned beside the output."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.layers = nn.ModuleList([AuxMoE() for _ in range(2)])

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        x = self.emb(input_ids)
        total = torch.zeros(1)
        all_logits: list[torch.Tensor] = []
        for layer in self.layers:
            y, loss, logits = layer(x)
            x = x + y
            total = total + loss
            all_logits.append(logits)
        return x, total, all_logits


class AuxMoE(ListMoE):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        flat = x.view(-1, self.d)
        logits = self.gate(flat)
        probs = F.softmax(logits, dim=1)
        weights, ids = torch.topk(probs, self.k, dim=-1)
        mask = F.one_hot(ids, self.e)
        per_expert = mask.float().mean(dim=0)
        loss = torch.sum(per_expert * probs.mean(dim=0).unsqueeze(0)) * self.e
        z_loss = (torch.logsumexp(logits, dim=-1) ** 2).mean()
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            slot, token = torch.where(mask.permute(2, 1, 0)[e])
            out.index_add_(0, token, expert(flat[token]) * weights[token, slot, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, weights, flat, out)
        return out.view_as(x), loss + 0.001 * z_loss, logits


@idiom("trace", wrap="none", layout="sb")
class SequenceFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe = PlainMoE()

    def forward(self, input_ids):
        x = self.emb(input_ids).transpose(0, 1).contiguous()
        x = x + self.moe(x)
        return x.transpose(0, 1)


@idiom("script", wrap="hidden", layout="b")
class EmbeddingsAsInput(PlainMoE):
    pass


@idiom("script")
class ModuleDictExperts(nn.Module):
    close = 1e-5

    def __init__(self):
        super().__init__()
        self.e, self.k, self.d = EXPERTS, 2, DIM
        self.router = nn.Linear(DIM, EXPERTS, bias=False)
        nn.init.normal_(self.router.weight, std=0.5)
        self.experts = nn.ModuleDict({f"expert_{i}": Expert() for i in range(EXPERTS)})

    def expert(self, e, x):
        return self.experts[f"expert_{e}"](x)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        logits = self.router(hidden_states)
        probs = F.softmax(logits, dim=-1)
        index = torch.argmax(probs, dim=-1)
        one_hot = F.one_hot(index, self.e)
        top = torch.max(probs, dim=-1)[0].unsqueeze(-1)
        next_states = hidden_states.clone()
        i = 0
        for name, expert in self.experts.items():  # noqa: B007 - TorchScript iterates over items
            token = one_hot[:, :, i].to(torch.bool)
            next_states[token] = expert(hidden_states[token])
            i += 1  # noqa: SIM113 - TorchScript cannot enumerate items
        out = top * next_states
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, index.unsqueeze(-1), top, hidden_states, out)
        return out


@idiom("trace")
class GatePerExpertLinear(ListMoE):
    """Each expert has a Linear(D, 1) of its own."""

    def __init__(self):
        super().__init__()
        self.gates = nn.ModuleList([nn.Linear(self.d, 1) for _ in range(self.e)])

    def forward(self, x):
        logits = torch.cat([gate(x) for gate in self.gates], dim=-1)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        dense = torch.zeros_like(logits).scatter(-1, ids, w)
        out = torch.stack([expert(x) for expert in self.experts], dim=-1)
        out = torch.matmul(out, dense.unsqueeze(-1)).squeeze(-1)
        if on():
            seen(logits)
            used(self, ids, w, x, out)
        return out


@idiom("script")
class GatherLogitsPackedInList(Routed):
    """Repeated argmax in a loop, picks and gates appended to lists."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        probs = logits.softmax(-1)
        rest = probs
        ids: list[torch.Tensor] = []
        gates: list[torch.Tensor] = []
        for _ in range(self.k):
            best = rest.argmax(-1, keepdim=True)
            ids.append(best)
            gates.append(rest.gather(-1, best))
            rest = rest.scatter(-1, best, 0.0)
        if not torch.jit.is_scripting():
            seen(logits)
        return torch.cat(ids, -1), torch.cat(gates, -1)


@idiom("trace")
class TaggedByTakeAlongDim(BankMoE):
    def forward(self, x):
        flat = x.flatten(0, -2)
        logits = flat @ self.gate.weight.T
        ids = logits.topk(self.k, dim=-1).indices
        w = torch.take_along_dim(logits.softmax(-1), ids, dim=-1)
        w1 = self.w1.index_select(0, ids.flatten())
        w2 = self.w2.index_select(0, ids.flatten())
        h = torch.relu(torch.bmm(flat.repeat_interleave(self.k, 0).unsqueeze(1), w1))
        y = torch.bmm(h, w2).view(-1, self.k, self.d)
        y = torch.bmm(w.unsqueeze(1), y).squeeze(1)
        if on():
            seen(logits)
            used(self, ids, w, flat, y)
        return y.view_as(x)
