"""Replacements for family code that the tracer cannot follow. Each computes the same values as the code it replaces;
`export.py` compares the two and says what was patched."""

from __future__ import annotations

import types

import torch
from torch.overrides import TorchFunctionMode


class TraceableCalls(TorchFunctionMode):
    """`scatter` with a Python bool has no TorchScript overload: gives it a tensor to scatter."""

    def __init__(self):
        super().__init__()
        self.rewritten = 0

    def __torch_function__(self, func, types_, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "scatter" and len(args) == 4 and isinstance(args[3], bool):
            self.rewritten += 1
            tensor, dim, index, value = args
            return func(tensor, dim, index, torch.full_like(index, int(value)).to(tensor.dtype))
        return func(*args, **kwargs)


def _longcat_experts(self, hidden_states, top_k_index, top_k_weights):
    """Every expert by gathered weights; ids past the routed experts are identities."""
    identity = top_k_index >= self.num_routed_experts
    ids = top_k_index.clamp(max=self.num_routed_experts - 1)
    tokens = hidden_states.unsqueeze(1).unsqueeze(-1)  # [T, 1, D, 1]
    gate, up = torch.matmul(self.gate_up_proj[ids], tokens).squeeze(-1).chunk(2, dim=-1)  # [T, K, F]
    expert = torch.matmul(self.down_proj[ids], (self.act_fn(gate) * up).unsqueeze(-1)).squeeze(-1)  # [T, K, D]
    chosen = torch.where(identity.unsqueeze(-1), hidden_states.unsqueeze(1), expert)
    return (chosen * top_k_weights.unsqueeze(-1)).sum(dim=1).to(hidden_states.dtype)


def _switch_experts(self, hidden_states, selected_experts, routing_weights):
    """Every expert on every token, times the one-hot choice [T, 1, E]."""
    result = torch.zeros_like(hidden_states)
    shares = selected_experts.squeeze(1).to(hidden_states.dtype) * routing_weights  # [T, E]
    for index in range(self.num_experts):
        result = result + self[f"expert_{index}"](hidden_states) * shares[:, index : index + 1]
    return result


def _nllb_experts(self, hidden_states, router_mask, router_probs):
    """Every expert on every token. `router_mask` [T, E] is read as expert ids, as transformers does."""
    result = torch.zeros_like(hidden_states)
    for index in range(self.num_experts):
        share = (router_probs * (router_mask == index).to(router_probs.dtype)).sum(dim=-1, keepdim=True)
        result = result + self[f"expert_{index}"](hidden_states) * share * (1 - self.moe_token_dropout)
    return result


def _jetmoe_gating(self, hidden_states):
    """The same as the original, except that the sizes of the groups stay a tensor."""
    logits = self.layer(hidden_states).float()
    top_k_logits, top_k_indices = logits.topk(self.top_k, dim=1)
    top_k_gates = torch.softmax(top_k_logits, dim=1).type_as(hidden_states)
    zeros = torch.zeros([top_k_gates.size(0), self.num_experts], dtype=top_k_gates.dtype, device=top_k_gates.device)
    expert_size = zeros.scatter(1, top_k_indices, 1).long().sum(0)
    index_sorted_experts = top_k_indices.flatten().sort(0).indices
    batch_index = index_sorted_experts.div(self.top_k, rounding_mode="trunc")
    batch_gates = top_k_gates.flatten()[index_sorted_experts]
    return index_sorted_experts, batch_index, batch_gates, expert_size, logits


def _jetmoe_experts(self, inputs, expert_size):
    """Rows come grouped by expert: row r belongs to the first expert whose groups end after r."""
    rows = torch.arange(inputs.shape[0], device=inputs.device)
    ids = (rows.unsqueeze(1) >= expert_size.cumsum(0).unsqueeze(0)).sum(dim=1)
    return torch.matmul(self.weight[ids], inputs.unsqueeze(-1)).squeeze(-1)


REPLACEMENTS = {
    "LongcatFlashExperts": (_longcat_experts, "loop over the experts that were hit"),
    "SwitchTransformersExperts": (_switch_experts, "loop over the experts that were hit"),
    "NllbMoeExperts": (_nllb_experts, "loop over the experts that were hit"),
    "JetMoeTopKGating": (_jetmoe_gating, "group sizes as a Python list"),
    "JetMoeParallelExperts": (_jetmoe_experts, "group sizes as a Python list"),
}


def apply(model: torch.nn.Module) -> list[str]:
    """Patches the model in place; returns what was patched, a line each."""
    patched = {}
    for module in model.modules():
        kind = type(module).__name__
        if kind in REPLACEMENTS:
            forward, reason = REPLACEMENTS[kind]
            module.forward = types.MethodType(forward, module)
            patched[kind] = f"{kind}.forward ({reason})"
    return list(patched.values())
