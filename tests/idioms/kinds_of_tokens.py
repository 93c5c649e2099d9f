"""Several kinds of tokens in one sequence: text beside images, groups of languages, replayed ids, conditions."""

import surroundings
import torch
import torch.nn.functional as F
from families_more import LoopOver
from parts import BATCH, DIM, EXPERTS, LENGTH, VOCAB, BankMoE, Expert, ListMoE, idiom, input_ids, look_alike
from recorder import on, seen, used, used_dense
from torch import nn


def kinds() -> dict[str, torch.Tensor]:
    return {**surroundings.right_padded(), "token_type_ids": torch.arange(14).view(2, 7) % 3 // 2}


def kinds_unpadded() -> dict[str, torch.Tensor]:
    return {
        **input_ids(),
        "attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.int64),
        "token_type_ids": kinds()["token_type_ids"],
    }


@idiom("script", wrap="none", calls=2, layout=None, inputs=kinds_unpadded)
class ErnieTextAndVision(nn.Module):
    """ERNIE VL: the gate's weight, bias and experts of each kind; parts come back by masked_scatter."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.text, self.other = LoopOver(), LoopOver(e=4)
        self.bias = nn.Parameter(torch.randn(1, EXPERTS) * 0.1)
        self.bias_other = nn.Parameter(torch.randn(1, 4) * 0.1)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        x = self.emb(input_ids) * (0.5 + 0.5 * attention_mask.unsqueeze(-1))
        visual = token_type_ids > 0
        spread = visual.unsqueeze(-1).expand(-1, -1, x.size(-1))
        rows = x[~visual]
        logits = F.linear(rows.float(), self.text.gate.weight.float())
        probs = F.softmax(logits, dim=-1, dtype=torch.float32)
        ids = torch.topk(probs + self.bias, 2, dim=-1)[1]
        w = torch.gather(probs, dim=-1, index=ids)
        w = w / torch.clamp(w.sum(dim=-1, keepdim=True), min=1e-12)
        part = self.text.run(rows, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.text, ids, w, rows, part)
        out = torch.zeros_like(x).masked_scatter(~spread, part)
        rows = x[visual]
        logits = F.linear(rows.float(), self.other.gate.weight.float())
        probs = F.softmax(logits, dim=-1, dtype=torch.float32)
        ids = torch.topk(probs + self.bias_other, 2, dim=-1)[1]
        w = torch.gather(probs, dim=-1, index=ids)
        w = w / torch.clamp(w.sum(dim=-1, keepdim=True), min=1e-12)
        part = self.other.run(rows, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.other, ids, w, rows, part)
        return x + out.masked_scatter(spread, part)


@idiom("trace", wrap="none", inputs=kinds)
class LogitsOfTheKind(nn.Module):
    """Text and image logits side by side, one of them by a mask of the kind, over the same experts."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe = ListMoE()
        self.second_gate = nn.Linear(DIM, EXPERTS, bias=False)

    def forward(self, input_ids, attention_mask, token_type_ids):
        x, moe = self.emb(input_ids) * (0.5 + 0.5 * attention_mask.unsqueeze(-1)), self.moe
        flat = x.view(-1, DIM)
        is_image = token_type_ids.view(-1, 1).to(x.dtype)
        logits = is_image * self.second_gate(flat) + (1 - is_image) * moe.gate(flat)
        w, ids = logits.softmax(-1).topk(2, -1)
        w = w / w.sum(-1, keepdim=True)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(moe.experts):
            out = out + expert(flat) * (w * (ids == e)).sum(-1, keepdim=True)
        if on():
            seen(logits)
            used(moe, ids, w, flat, out)
        return x + out.view_as(x)


@look_alike("script", wrap="none", inputs=kinds)
class ExpertOfTheKind(nn.Module):
    """CogVLM: weights for text and weights for images, by the argument alone: nothing is chosen."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.experts = nn.ModuleList([Expert(), Expert()])

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        x = self.emb(input_ids) * (0.5 + 0.5 * attention_mask.unsqueeze(-1))
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            mine = token_type_ids == e
            out[mine] = expert(x[mine])
        return x + out


def replayed() -> dict[str, torch.Tensor]:
    ids = torch.stack([torch.randperm(EXPERTS)[:2] for _ in range(BATCH * LENGTH)])
    return {**surroundings.right_padded(), "routed_experts": ids.view(BATCH, LENGTH, 2)}


@idiom("script", wrap="none", inputs=replayed)
class ReplayedIds(nn.Module):
    """Routing replay: the rollout's ids come in as an argument, the weights are this model's own."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe = LoopOver()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, routed_experts: torch.Tensor
    ) -> torch.Tensor:
        x = self.emb(input_ids) * (0.5 + 0.5 * attention_mask.unsqueeze(-1))
        flat = x.reshape(-1, x.size(-1))
        logits = self.moe.gate(flat)
        ids = routed_experts.view(-1, 2)
        w = torch.softmax(logits, dim=-1).gather(1, ids)
        w = w / w.sum(-1, keepdim=True)
        out = self.moe.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids, w, flat, out)
        return x + out.view_as(x)


@idiom("script", wrap="none", inputs=replayed)
class GivenIdsAndWeights(nn.Module):
    """A layer whose caller routed already: ids and weights are arguments."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe = BankMoE()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, routed_experts: torch.Tensor
    ) -> torch.Tensor:
        x = self.emb(input_ids) * (0.5 + 0.5 * attention_mask.unsqueeze(-1))
        flat = x.reshape(-1, x.size(-1))
        ids = routed_experts.view(-1, 2)
        h = torch.relu(torch.einsum("td,tkdf->tkf", flat, self.moe.w1[ids]))
        out = torch.einsum("tkf,tkfd->td", h, self.moe.w2[ids]) / 2
        if not torch.jit.is_scripting():
            used(self.moe, ids, torch.full_like(ids, 0.5, dtype=torch.float32), flat, out)
        return x + out.view_as(x)


@idiom("trace", wrap="none", inputs=input_ids)
class HashOfTwoTokens(nn.Module):
    """A hash of the token and the one before it."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe = ListMoE(k=1)

    def forward(self, input_ids):
        x, moe = self.emb(input_ids), self.moe
        before = F.pad(input_ids, (1, 0))[:, :-1]
        ids = (input_ids * 31 + before * 7) % moe.e
        out = torch.zeros_like(x)
        for e, expert in enumerate(moe.experts):
            out = torch.where((ids == e).unsqueeze(-1), expert(x), out)
        if on():
            used(moe, ids.unsqueeze(-1), None, x, out)
        return x + out


@idiom("script", wrap="none", inputs=lambda: {**input_ids(), "timestep": torch.tensor([3, 17])})
class TimestepAddedToLogits(nn.Module):
    """Diffusion: a projection of the sample's timestep is added to each token's logits."""

    def __init__(self):
        super().__init__()
        self.emb, self.time = nn.Embedding(VOCAB, DIM), nn.Embedding(20, 6)
        self.time_gate = nn.Linear(6, EXPERTS)
        self.moe = LoopOver()

    def forward(self, input_ids: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        logits = self.moe.gate(x) + self.time_gate(F.silu(self.time(timestep))).unsqueeze(1)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), 2, dim=-1)
        flat = x.view(-1, x.size(-1))
        out = self.moe.run(flat, w.view(-1, 2), ids.view(-1, 2))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids, w, flat, out)
        return x + out.view_as(x)


@idiom("trace", wrap="padded", as_sets=True)
class ThresholdOfACapacityHead(ListMoE):
    """DiffMoE at inference: a head of its own says which experts take a token, the gate's softmax weighs."""

    def __init__(self):
        super().__init__()
        self.capacity = nn.Sequential(nn.Linear(self.d, 7), nn.SiLU(), nn.Linear(7, self.e))
        nn.init.normal_(self.capacity[2].weight, std=1.0)

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        scores = self.gate(flat).softmax(-1)
        logits = self.capacity(flat)
        keep = torch.sigmoid(logits) > 0.5
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            out = out + expert(flat) * (scores[:, e] * keep[:, e]).unsqueeze(-1)
        if on():
            seen(logits)
            used_dense(self, scores * keep, flat, out)
        return out.view_as(x)


@idiom("script", wrap="none", calls=3, layout=None, inputs=kinds_unpadded)
class LanguageGroups(nn.Module):
    """DLG-MoE: a language router picks the group, whose own router picks two of its experts."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.language = nn.Linear(DIM, 2)
        self.groups = nn.ModuleList([LoopOver(e=3), LoopOver(e=4)])
        self.e, self.close = 2, 1e-5

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        x = self.emb(input_ids) * (0.5 + 0.5 * attention_mask.unsqueeze(-1))
        flat = x.reshape(-1, x.size(-1))
        logits = self.language(flat)
        which = torch.argmax(logits, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, which.unsqueeze(-1), None)
        out = torch.zeros_like(flat)
        for n, group in enumerate(self.groups):
            rows = torch.nonzero(which == n).squeeze(-1)
            mine = flat[rows]
            inner = group.gate(mine)
            w, ids = torch.topk(torch.softmax(inner, dim=-1), 2, dim=-1)
            part = group.run(mine, w, ids)
            out[rows] = part
            if not torch.jit.is_scripting():
                seen(inner)
                used(group, ids, w, mine, part)
        return x + out.view_as(x)


@idiom(
    "trace",
    wrap="none",
    layout=None,
    inputs=lambda: {**input_ids(), "pixel_values": torch.randn(BATCH, 3, 6, 6)},
    calls=2,
)
class ImageAtItsPlaceholders(nn.Module):
    """Patches are written over the text's placeholders; a projector of experts before, a layer of experts after."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.patch = nn.Conv2d(3, DIM, 3, stride=3)
        self.projector, self.moe = ListMoE(), ListMoE()

    @staticmethod
    def run(moe, x):
        logits = moe.gate(x)
        w, ids = logits.softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(moe.experts):
            out = out + expert(x) * (w * (ids == e)).sum(-1, keepdim=True)
        if on():
            seen(logits)
            used(moe, ids, w, x, out)
        return out

    def forward(self, input_ids, pixel_values):
        image = self.patch(pixel_values).flatten(2).transpose(1, 2)
        image = image + self.run(self.projector, image)
        x = self.emb(input_ids)
        x = torch.cat([x[:, :2], image, x[:, 2 + image.shape[1] :]], dim=1)
        return x + self.run(self.moe, x)
