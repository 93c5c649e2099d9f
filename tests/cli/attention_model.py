"""A small TorchScript decoder whose attention is written in two ways, with a mask and a cache."""

import math

import torch
from moe_model import VOCABULARY, WIDTH, MoeBlock
from torch import nn
from torch.nn import functional

NUM_HEADS = 2
NUM_LAYERS = 2
MAX_LENGTH = 64


class FusedAttention(nn.Module):
    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=keep)


class EagerAttention(nn.Module):
    """A query without keys attends to all alike, as with many models."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        bias = torch.zeros(keep.shape, dtype=query.dtype).masked_fill(keep.logical_not(), -3.4e38)
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.size(-1))
        return torch.matmul(torch.softmax(scores + bias, dim=-1), value)


class Block(nn.Module):
    def __init__(self, attention: nn.Module):
        super().__init__()
        self.num_heads = NUM_HEADS
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention = attention
        self.moe = MoeBlock()

    def forward(self, x: torch.Tensor, keep: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [B, S, WIDTH]; keep bool [B, 1, S, P + S]; past [2, B, H, P, D]; gives the cache [2, B, H, P + S, D]."""
        parts = self.project(x).view(x.size(0), x.size(1), 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        key, value = torch.cat([past[0], parts[1]], dim=2), torch.cat([past[1], parts[2]], dim=2)
        heads = self.attention(parts[0], key, value, keep)
        x = x + heads.transpose(1, 2).reshape(x.shape)
        return x + self.moe(x), torch.stack([key, value])


class Decoder(nn.Module):
    """Positions count the tokens of the mask, so padding on the left changes nothing."""

    def __init__(self, attention: type[nn.Module]):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(MAX_LENGTH, WIDTH)
        self.layers = nn.ModuleList([Block(attention()) for _ in range(NUM_LAYERS)])

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids [B, S]; attention_mask [B, P + S]; past [NUM_LAYERS, 2, B, H, P, D]."""
        length, total = input_ids.size(1), attention_mask.size(1)
        place = torch.arange(total)
        causal = place[total - length :].unsqueeze(1) >= place.unsqueeze(0)
        keep = causal.unsqueeze(0).unsqueeze(0) & (attention_mask != 0).unsqueeze(1).unsqueeze(1)
        position = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, total - length :]
        x = self.embedding(input_ids) + self.positions(position)
        caches: list[torch.Tensor] = []
        for number, layer in enumerate(self.layers):
            x, cache = layer(x, keep, past[number])
            caches.append(cache)
        return x, torch.stack(caches)


def no_past(batch: int) -> torch.Tensor:
    return torch.zeros(NUM_LAYERS, 2, batch, NUM_HEADS, 0, WIDTH // NUM_HEADS)
