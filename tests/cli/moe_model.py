"""Small TorchScript models for the tests of the program."""

import torch
from torch import nn

NUM_EXPERTS = 4
TOP_K = 2
WIDTH = 8
VOCABULARY = 32


class MoeBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, NUM_EXPERTS, bias=False)
        self.experts = nn.Parameter(torch.randn(NUM_EXPERTS, WIDTH, WIDTH) / WIDTH**0.5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.size(-1))
        scores = torch.softmax(self.gate(tokens), dim=-1)
        weights, selected = torch.topk(scores, 2, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        outputs = torch.einsum("td,tkdf->tkf", tokens, self.experts[selected])
        return self.dropout((outputs * weights.unsqueeze(-1)).sum(dim=1)).reshape(x.shape)


class MoeModel(nn.Module):
    """Two methods, so that --method has something to choose."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([MoeBlock(), MoeBlock()])
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.head(self.encode(input_ids, attention_mask)) * scale

    @torch.jit.export
    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        for layer in self.layers:
            x = x + layer(x)
        return x


class DenseModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


def moe_inputs(batch: int, length: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(VOCABULARY, (batch, length), generator=generator),
        "attention_mask": torch.ones(batch, length, dtype=torch.long),
    }
