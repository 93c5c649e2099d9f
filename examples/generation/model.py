"""A decoder with a key-value cache and Mixture-of-Experts blocks, as TorchScript:  model.py MODEL.pt

Its weights are random, so the text is noise; but its forwards are like those of a served model.
"""

import sys

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, WIDTH, HEADS, LAYERS, EXPERTS, TOP_K = 64, 32, 4, 2, 8, 2
HEAD_WIDTH = WIDTH // HEADS
MAX_POSITIONS = 256


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [B, S, D]; mask [B, 1, S, P + S]; cache [2, B, heads, P, head width] -> x, cache of P + S."""
        batch, length = x.size(0), x.size(1)
        qkv = self.qkv(x).reshape(batch, length, 3, cache.size(2), -1).permute(2, 0, 3, 1, 4)
        cache = torch.cat([cache, qkv[1:]], dim=3)
        attended = functional.scaled_dot_product_attention(qkv[0], cache[0], cache[1], attn_mask=mask)
        return self.out(attended.transpose(1, 2).reshape(batch, length, -1)), cache


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * WIDTH) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, 2 * WIDTH, WIDTH) / (2 * WIDTH) ** 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.size(-1))
        weights, selected = torch.topk(torch.softmax(self.gate(tokens), dim=-1), 2, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        hidden = functional.silu(torch.einsum("td,tkdf->tkf", tokens, self.up[selected]))
        outputs = torch.einsum("tkf,tkfd->tkd", hidden, self.down[selected])
        return (outputs * weights.unsqueeze(-1)).sum(dim=1).reshape(x.shape)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.moe_norm = nn.LayerNorm(WIDTH)
        self.moe = Experts()

    def forward(self, x: torch.Tensor, mask: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attended, cache = self.attention(self.norm(x), mask, cache)
        x = x + attended
        return x + self.moe(self.moe_norm(x)), cache


class Decoder(nn.Module):
    cache_shape: list[int]  # with B = P = 0: what a host needs to make an empty cache

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(MAX_POSITIONS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.cache_shape = [LAYERS, 2, 0, HEADS, 0, HEAD_WIDTH]

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids [B, S]; attention_mask [B, P + S], 0 = padding; cache [layers, 2, B, heads, P, head width].

        Returns the logits of the last position [B, vocabulary] and the cache of P + S.
        """
        length, total = input_ids.size(1), attention_mask.size(1)
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, total - length :]
        x = self.embedding(input_ids) + self.positions(positions)
        columns = torch.arange(total)
        rows = columns[total - length :].unsqueeze(1)
        valid = attention_mask.ne(0).unsqueeze(1).unsqueeze(1)
        mask = (columns <= rows) & valid | (columns == rows)  # padding sees itself
        caches: list[torch.Tensor] = []
        for index, layer in enumerate(self.layers):
            x, layer_cache = layer(x, mask, cache[index])
            caches.append(layer_cache)
        return self.head(x[:, -1]), torch.stack(caches)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: model.py MODEL.pt")
    torch.manual_seed(0)
    torch.jit.script(Decoder().double().eval()).save(sys.argv[1])
