"""How scores are made of logits: sigmoid, softplus, sparse softmaxes, biases, groups, normalisation, factors."""

import torch
import torch.nn.functional as F
from parts import BankMoE, GatedMoE, ListMoE, idiom
from recorder import on, seen, used, used_dense
from torch import nn


class Routed(ListMoE):
    """`route(flat)` gives ids and weights; the loop over experts is the plain one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        ids, weights = self.route(flat)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(ids == e)
            out.index_add_(0, token, expert(flat[token]) * weights[token, slot].unsqueeze(-1))
        if not torch.jit.is_scripting():
            used(self, ids, weights, flat, out)
        return out.view_as(x)


@idiom("script")
class DeepseekV3Noaux(GatedMoE):
    """Sigmoid, correction bias for the choice only, the best two of each group decide which groups count."""

    def __init__(self):
        super().__init__(e=8, k=3)
        self.register_buffer("e_score_correction_bias", torch.randn(8) * 0.2)
        self.n_group, self.topk_group, self.routed_scaling_factor = 4, 2, 2.5
        self.shared = nn.Linear(self.d, self.d)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        orig_shape = hidden_states.shape
        flat = hidden_states.view(-1, self.d)
        router_logits = F.linear(flat.type(torch.float32), self.gate.weight.type(torch.float32))
        scores = router_logits.sigmoid()
        scores_for_choice = scores.view(-1, self.e) + self.e_score_correction_bias.unsqueeze(0)
        group_scores = scores_for_choice.view(-1, self.n_group, self.e // self.n_group).topk(2, dim=-1)[0].sum(dim=-1)
        group_idx = torch.topk(group_scores, k=self.topk_group, dim=-1, sorted=False)[1]
        group_mask = torch.zeros_like(group_scores)
        group_mask.scatter_(1, group_idx, 1)
        score_mask = group_mask.unsqueeze(-1).expand(-1, self.n_group, self.e // self.n_group).reshape(-1, self.e)
        scores_for_choice = scores_for_choice.masked_fill(~score_mask.to(torch.bool), 0.0)
        topk_indices = torch.topk(scores_for_choice, k=self.k, dim=-1, sorted=False)[1]
        topk_weights = scores.gather(1, topk_indices)
        topk_weights = topk_weights / (topk_weights.sum(dim=-1, keepdim=True) + 1e-20)
        topk_weights = topk_weights * self.routed_scaling_factor
        final = torch.zeros_like(flat, dtype=topk_weights.dtype)
        expert_mask = F.one_hot(topk_indices, num_classes=self.e).permute(2, 0, 1)
        for i, expert in enumerate(self.experts):
            token_indices, weight_indices = torch.where(expert_mask[i])
            if token_indices.numel() > 0:
                weights = topk_weights[token_indices, weight_indices]
                final.index_add_(0, token_indices, expert(flat[token_indices]) * weights.unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(router_logits)
            used(self, topk_indices, topk_weights, flat, final)
        final = final + self.shared(flat)
        return final.type(hidden_states.dtype).view(orig_shape)


@idiom("script")
class DeepseekV2Greedy(Routed):
    def __init__(self):
        super().__init__(e=8, k=2)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat.float())
        scores = logits.softmax(dim=-1, dtype=torch.float32)
        group_scores = scores.view(flat.shape[0], 4, -1).max(dim=-1)[0]
        group_idx = torch.topk(group_scores, k=2, dim=-1, sorted=False)[1]
        group_mask = torch.zeros_like(group_scores).scatter_(1, group_idx, 1.0)
        score_mask = group_mask.unsqueeze(-1).expand(flat.shape[0], 4, 2).reshape(flat.shape[0], -1)
        tmp_scores = scores.masked_fill(score_mask == 0, 0.0)
        weight, idx = torch.topk(tmp_scores, k=self.k, dim=-1, sorted=False)
        if not torch.jit.is_scripting():
            seen(logits)
        return idx, weight * 16.0


@idiom("script")
class SqrtSoftplus(Routed):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(self.e) * 0.1)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = F.linear(flat.float(), self.gate.weight.float())
        scores = F.softplus(logits).sqrt()
        original = scores
        scores = scores + self.bias
        indices = scores.topk(self.k, dim=-1)[1]
        weights = original.gather(1, indices)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        if not torch.jit.is_scripting():
            seen(logits)
        return indices, weights * 1.5


@idiom("trace")
class LlamaFourInputScale(BankMoE):
    """Top-1 sigmoid of a scattered -inf row; the scores multiply what goes into the experts."""

    close = 1e9  # the experts are not linear: what they give cannot be summed up afterwards

    def forward(self, x):
        flat = x.view(-1, self.d)
        router_logits = self.gate(flat)
        top_value, indices = torch.topk(router_logits, 1, dim=1)
        scores = torch.full_like(router_logits, float("-inf")).scatter_(1, indices, top_value).transpose(0, 1)
        scores = torch.sigmoid(scores.float()).to(x.dtype)
        routed_in = flat.repeat(self.e, 1) * scores.reshape(-1, 1)
        h = torch.relu(torch.bmm(routed_in.view(self.e, -1, self.d), self.w1))
        routed = torch.bmm(h, self.w2)
        y = routed.reshape(self.e, -1, self.d).sum(dim=0)
        if on():
            seen(router_logits)
            used(self, indices, scores.t().gather(1, indices), flat, y)
        return y.view_as(x)


@idiom("script")
class SparsemixerEval(Routed):
    """PhiMoE in eval mode: two masked softmaxes."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.gate(flat)
        jitter_eps = 0.01
        threshold, max_ind = scores.max(dim=-1, keepdim=True)
        factor = scores.abs().clamp(min=threshold)
        logits_mask = ((threshold - scores) / factor) > (2 * jitter_eps)
        masked_gates = scores.masked_fill(logits_mask, float("-inf"))
        selected = max_ind
        masked_gates = torch.softmax(masked_gates, dim=-1)
        multiplier = masked_gates.gather(dim=-1, index=selected)
        masked_scores = torch.scatter(scores, -1, selected, float("-inf"))
        threshold2, max_ind2 = masked_scores.max(dim=-1, keepdim=True)
        factor2 = scores.abs().clamp(min=threshold2)
        logits_mask2 = ((threshold2 - scores) / factor2) > (2 * jitter_eps)
        masked_gates2 = masked_scores.masked_fill(logits_mask2, float("-inf"))
        masked_gates2 = torch.softmax(masked_gates2, dim=-1)
        multiplier2 = masked_gates2.gather(dim=-1, index=max_ind2)
        if not torch.jit.is_scripting():
            seen(scores)
        return torch.cat([selected, max_ind2], dim=-1), torch.cat([multiplier, multiplier2], dim=-1)


def sparsemax(z: torch.Tensor) -> torch.Tensor:
    s = torch.sort(z, dim=-1, descending=True)[0]
    k = torch.arange(1, z.size(-1) + 1, dtype=z.dtype)
    cumulative = s.cumsum(-1)
    support = (1 + k * s) > cumulative
    size = support.sum(-1, keepdim=True)
    tau = (cumulative.gather(-1, size - 1) - 1) / size.to(z.dtype)
    return torch.clamp(z - tau, min=0.0)


class DenseLoop(ListMoE):
    """`weigh(x)` gives weights [.., E]; experts run where these are not zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        weights = self.weigh(flat)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token = torch.nonzero(weights[:, e] > 0).squeeze(1)
            out.index_add_(0, token, expert(flat[token]) * weights[token, e].unsqueeze(-1))
        if not torch.jit.is_scripting():
            used_dense(self, weights, flat, out)
        return out.view_as(x)


@idiom("script", as_sets=True)
class SparsemaxSupport(DenseLoop):
    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        if not torch.jit.is_scripting():
            seen(logits)
        return sparsemax(logits)


@idiom("script", as_sets=True)
class ReluRouting(DenseLoop):
    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        if not torch.jit.is_scripting():
            seen(logits)
        return F.relu(logits)


@idiom("script", as_sets=True)
class ProbabilityThreshold(DenseLoop):
    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        probs = torch.softmax(logits, dim=-1)
        mask = probs > 0.15
        if not torch.jit.is_scripting():
            seen(logits)
        return probs * mask


@idiom("script", as_sets=True)
class TopPNucleus(DenseLoop):
    """As many experts as it takes to reach a share of the probability."""

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        probs = F.softmax(logits, dim=-1)
        sorted_probs, sorted_idx = torch.sort(probs, dim=-1, descending=True)
        cumulative = torch.cumsum(sorted_probs, dim=-1)
        keep = (cumulative - sorted_probs) < 0.6
        mask = torch.zeros_like(probs).scatter(-1, sorted_idx, keep.to(probs.dtype))
        weights = probs * mask
        if not torch.jit.is_scripting():
            seen(logits)
        return weights / weights.sum(-1, keepdim=True)


@idiom("script", as_sets=True)
class MinOfTopK(DenseLoop):
    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        threshold = torch.topk(logits, self.k, dim=-1)[0].min(dim=-1, keepdim=True)[0]
        masked = torch.where(logits >= threshold, logits, torch.full_like(logits, -1e9))
        if not torch.jit.is_scripting():
            seen(logits)
        return F.softmax(masked, dim=-1)


@idiom("script", as_sets=True)
class LastOfTopKValues(DenseLoop):
    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        scores = torch.sigmoid(logits)
        kth = torch.topk(scores, self.k, dim=-1)[0][..., -1, None]
        kept = scores.masked_fill(scores < kth, 0.0)
        if not torch.jit.is_scripting():
            seen(logits)
        return kept / kept.sum(dim=-1, keepdim=True)


@idiom("script", as_sets=True)
class DynamicTopAny(DenseLoop):
    """DynMoE: cosine scores above each expert's threshold; where none is, the best one."""

    def __init__(self):
        super().__init__()
        self.sim = nn.Parameter(torch.randn(self.d, self.e))
        self.gates = nn.Parameter(torch.rand(self.e) * 0.4 - 0.1)

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = F.normalize(flat, dim=1) @ F.normalize(self.sim, dim=0)
        scores = torch.sigmoid(logits)
        active = (scores > torch.sigmoid(self.gates)).to(scores.dtype)
        best = F.one_hot(scores.argmax(dim=1), num_classes=self.e).to(scores.dtype)
        none = (active.sum(dim=1, keepdim=True) == 0).to(scores.dtype)
        mask = active + none * best
        if not torch.jit.is_scripting():
            seen(logits)
        return mask / mask.sum(dim=1, keepdim=True)


@idiom("script")
class NoisyTopKEval(Routed):
    """Shazeer: noise in training only; top k+1 of which k are used; scatter of the gates."""

    def __init__(self):
        super().__init__()
        self.w_gate = nn.Parameter(torch.randn(self.d, self.e))
        self.w_noise = nn.Parameter(torch.randn(self.d, self.e))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        clean_logits = flat @ self.w_gate
        logits = clean_logits
        if self.training:
            stddev = F.softplus(flat @ self.w_noise) + 1e-2
            logits = clean_logits + torch.randn_like(clean_logits) * stddev
        top_logits, top_indices = logits.topk(min(self.k + 1, self.e), dim=1)
        top_k_logits = top_logits[:, : self.k]
        top_k_indices = top_indices[:, : self.k]
        if not torch.jit.is_scripting():
            seen(logits)
        return top_k_indices, torch.softmax(top_k_logits, 1)


@idiom("script")
class NoiseOfScaleZero(Routed):
    """Noise is always drawn; its scale is a buffer, zero after training."""

    def __init__(self):
        super().__init__()
        self.noise = nn.Linear(self.d, self.e)
        self.register_buffer("noise_scale", torch.zeros(1))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        noise = torch.randn_like(logits) * F.softplus(self.noise(flat)) * self.noise_scale
        noisy_logits = logits + noise
        top_k_logits, indices = noisy_logits.topk(self.k, dim=-1)
        zeros = torch.full_like(noisy_logits, float("-inf"))
        sparse_logits = zeros.scatter(-1, indices, top_k_logits)
        router_output = F.softmax(sparse_logits, dim=-1)
        if not torch.jit.is_scripting():
            seen(noisy_logits)
        return indices, router_output.gather(-1, indices)


@idiom("script")
class LearnedTemperature(Routed):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor([0.3]))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat) / self.temperature.exp()
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class CosineProjected(Routed):
    """X-MoE: project, normalise, similarity with normalised centroids, clamped scale."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(self.d, 4)
        self.sim_matrix = nn.Parameter(torch.randn(4, self.e))
        self.temperature = nn.Parameter(torch.log(torch.full([1], 5.0)))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        projected = self.proj(flat)
        logits = torch.matmul(F.normalize(projected, dim=1), F.normalize(self.sim_matrix, dim=0))
        scale = torch.clamp(self.temperature, max=4.6).exp()
        logits = logits * scale
        w, ids = torch.topk(F.softmax(logits, dim=1), self.k, dim=1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w
