"""Decoders with Mixture-of-Experts layers and random weights, eager or scripted."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

VOCABULARY = 1024


@dataclass(frozen=True)
class Shape:
    """Of a decoder's layers."""

    name: str
    hidden: int
    experts: int
    top_k: int
    intermediate: int
    heads: int
    key_value_heads: int
    layers: int
    sigmoid: bool = False  # sigmoid scores, a bias for the choice, the best groups of experts
    head_width: int = 128

    def layer_bytes(self) -> int:
        return 2 * 3 * self.experts * self.hidden * self.intermediate


GROUPS, CHOSEN_GROUPS = 8, 4


class Norm(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rms_norm(x, [x.size(-1)], self.weight, 1e-6)


class Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.heads, self.key_value_heads = shape.heads, shape.key_value_heads
        self.query = nn.Linear(shape.hidden, shape.heads * shape.head_width, bias=False)
        self.key = nn.Linear(shape.hidden, shape.key_value_heads * shape.head_width, bias=False)
        self.value = nn.Linear(shape.hidden, shape.key_value_heads * shape.head_width, bias=False)
        self.out = nn.Linear(shape.heads * shape.head_width, shape.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length = x.size(0), x.size(1)
        query = self.query(x).view(batch, length, self.heads, -1).transpose(1, 2)
        key = self.key(x).view(batch, length, self.key_value_heads, -1).transpose(1, 2)
        value = self.value(x).view(batch, length, self.key_value_heads, -1).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=length > 1, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


class SoftmaxRouter(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.top_k = shape.top_k
        self.gate = nn.Linear(shape.hidden, shape.experts, bias=False)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """tokens [T, D] -> logits [T, E], weights [T, K], ids [T, K]."""
        logits = self.gate(tokens)
        weights, ids = torch.topk(torch.softmax(logits, dim=-1, dtype=torch.float), self.top_k, dim=-1)
        return logits, (weights / weights.sum(dim=-1, keepdim=True)).to(tokens.dtype), ids


class SigmoidRouter(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.top_k, self.groups, self.chosen_groups = shape.top_k, GROUPS, CHOSEN_GROUPS
        self.gate = nn.Linear(shape.hidden, shape.experts, bias=False)
        self.bias = nn.Parameter(torch.zeros(shape.experts))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """tokens [T, D] -> logits [T, E], weights [T, K], ids [T, K]."""
        logits = self.gate(tokens)
        scores = logits.float().sigmoid()
        for_choice = scores + self.bias.float()
        of_group = for_choice.view(tokens.size(0), self.groups, -1)
        group_scores = of_group.topk(2, dim=-1)[0].sum(dim=-1)
        chosen = torch.topk(group_scores, self.chosen_groups, dim=-1, sorted=False)[1]
        group_mask = torch.zeros_like(group_scores).scatter_(1, chosen, 1.0)
        mask = group_mask.unsqueeze(-1).expand_as(of_group).reshape(tokens.size(0), -1)
        ids = torch.topk(for_choice.masked_fill(mask == 0, 0.0), self.top_k, dim=-1, sorted=False)[1]
        weights = scores.gather(1, ids)
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20) * 2.5
        return logits, weights.to(tokens.dtype), ids


class Experts(nn.Module):
    """Experts that never wait for the device: all sizes are known on the host."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_up = nn.Parameter(torch.zeros(shape.experts, shape.hidden, 2 * shape.intermediate))
        self.down = nn.Parameter(torch.zeros(shape.experts, shape.intermediate, shape.hidden))

    def mix(self, gathered: torch.Tensor) -> torch.Tensor:
        gate, up = torch.chunk(gathered, 2, dim=-1)
        return functional.silu(gate) * up

    def forward(self, tokens: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        num_tokens, top_k, experts = tokens.size(0), ids.size(1), self.gate_up.size(0)
        chosen = ids.reshape(-1)
        if 3 * num_tokens * top_k <= experts or num_tokens == 1:
            # Copying the weights of the chosen experts moves fewer bytes than reading all of them.
            spread = tokens.unsqueeze(1).expand(-1, top_k, -1).reshape(num_tokens * top_k, 1, -1)
            made = torch.bmm(self.mix(torch.bmm(spread, self.gate_up[chosen])), self.down[chosen])
            return (made.view(num_tokens, top_k, -1) * weights.unsqueeze(-1)).sum(dim=1)
        # Each expert has rows for `capacity` tokens. Further tokens are dropped; unused rows repeat a token.
        capacity = num_tokens
        if num_tokens > 64:
            capacity = min(num_tokens, 2 * num_tokens * top_k // experts)
        order = torch.argsort(chosen)
        of_expert = chosen[order]
        begins = torch.searchsorted(of_expert, torch.arange(experts, device=tokens.device))
        places = begins.unsqueeze(1) + torch.arange(capacity, device=tokens.device)
        inputs = tokens[order[places.clamp(max=num_tokens * top_k - 1)] // top_k]
        made = torch.bmm(self.mix(torch.bmm(inputs, self.gate_up)), self.down).view(experts * capacity, -1)
        place = torch.arange(num_tokens * top_k, device=tokens.device) - begins[of_expert]
        made = made[of_expert * capacity + place.clamp(max=capacity - 1)]
        held = torch.zeros_like(chosen).scatter(0, order, (place < capacity).long())  # 0: the slot is dropped
        weights = weights * held.view_as(weights)
        made = made * weights.reshape(-1)[order].unsqueeze(-1)
        return torch.zeros_like(tokens).index_add(0, order // top_k, made)


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.attention_norm = Norm(shape)
        self.attention = Attention(shape)
        self.norm = Norm(shape)
        self.router = SigmoidRouter(shape) if shape.sigmoid else SoftmaxRouter(shape)
        self.experts = Experts(shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x))
        tokens = self.norm(x).view(-1, x.size(-1))
        _, weights, ids = self.router(tokens)
        return x + self.experts(tokens, weights, ids).view_as(x)


class Decoder(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))

    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    def routers(self) -> list[nn.Module]:
        return [layer.router for layer in self.layers]

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


def make_decoder(shape: Shape, device: torch.device, dtype: torch.dtype) -> Decoder:
    with torch.device("meta"):
        decoder = Decoder(shape).to(dtype)
    decoder = decoder.to_empty(device=device).eval()
    torch.manual_seed(0)
    for name, weight in decoder.named_parameters():
        if name.endswith("norm.weight"):
            weight.data.fill_(1)
        elif name.endswith("bias"):
            weight.data.zero_()
        else:
            # Keeps the variance of what it multiplies, so that tokens choose different experts.
            inputs = weight.size(-2) if weight.dim() == 3 else weight.size(-1)
            weight.data.normal_(std=1.0 if name.startswith("embedding") else 1 / math.sqrt(inputs))
    return decoder
