"""What the rows of a router are: positions first, without padding, in chunks, one of several token kinds."""

import torch
from models import TracedMoE, padded
from parts import DIM, LENGTH, VOCAB, Expert, idiom
from structure import Block, PlainMoE
from torch import nn


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe = PlainMoE()


@idiom("script", wrap="none", layout="sb")
class PositionsFirstScripted(Embedded):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids.t())
        s, b, d = x.shape
        y = self.moe(x.view(s * b, d)).view(s, b, d)
        return (x + y).transpose(0, 1)


@idiom("trace", wrap="none", layout="sb")
class PositionsFirstKept(nn.Module):
    """[S, B, D] all the way, never flat."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.norm = nn.LayerNorm(DIM)
        self.moe = TracedMoE()

    def forward(self, input_ids):
        x = self.emb(input_ids).permute(1, 0, 2)
        x = x + self.moe(self.norm(x))
        return x.permute(1, 0, 2)


@idiom("script", wrap="none", layout="packed", inputs=padded)
class PaddingTakenOut(Embedded):
    """Only tokens whose mask is one reach the router."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        keep = attention_mask > 0
        y = torch.zeros_like(x)
        y[keep] = self.moe(x[keep])
        return x + y


@idiom("script", wrap="none", layout="packed", inputs=padded)
class PaddingIndexSelected(Embedded):
    """The same by indices of the flat mask, as unpad_input does."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        b, s, d = x.shape
        indices = torch.nonzero(attention_mask.flatten()).flatten()
        flat = x.reshape(b * s, d)
        y = self.moe(flat.index_select(0, indices))
        return flat.index_add(0, indices, y).view(b, s, d)


@idiom("script", wrap="none", inputs=padded)
class OutputMasked(Embedded):
    """All tokens are routed; the output of padding is set to zero afterwards."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        x = x + self.moe(x)
        return x * attention_mask.unsqueeze(-1).to(x.dtype)


@idiom("script", wrap="none", calls=2, layout=None)
class SamplesOneByOne(Embedded):
    """A loop over the batch; the router sees one sequence at a time."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        rows: list[torch.Tensor] = []
        for b in range(x.size(0)):
            rows.append(x[b] + self.moe(x[b]))
        return torch.stack(rows)


@idiom("script", wrap="none", calls=3, layout=None)
class ChunksOfTokens(Embedded):
    """Flat tokens in chunks of five."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        flat = self.emb(input_ids).view(-1, 10)
        parts = torch.jit.annotate(list[torch.Tensor], [])
        for part in flat.split(5):
            parts.append(self.moe(part))
        return (flat + torch.cat(parts)).view(input_ids.size(0), input_ids.size(1), -1)


@idiom("script", wrap="none", layout=None)
class LastTokenOnly(Embedded):
    """A classifier whose experts see the last position alone."""

    def __init__(self):
        super().__init__()
        self.block = Block(Expert())

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.block(self.emb(input_ids))
        last = x[:, -1]
        return last + self.moe(last)


@idiom("trace", wrap="none", layout="bs")
class LearnedPositionsAdded(nn.Module):
    """Token and position embeddings, a causal mask, a routed layer on top."""

    def __init__(self):
        super().__init__()
        self.emb, self.pos = nn.Embedding(VOCAB, DIM), nn.Embedding(LENGTH, DIM)
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.block = Block(TracedMoE())

    def forward(self, input_ids):
        at = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.emb(input_ids) + self.pos(at)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        mask = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
        x = x + (q @ k.transpose(1, 2) * 0.3 + mask).softmax(-1) @ v
        return self.block(x)


class Encoded(Embedded):
    """PyTorch's own encoder layer before the router; its layers take the sequence first unless they are told."""

    def __init__(self, layers: int = 0):
        super().__init__()
        layer = nn.TransformerEncoderLayer(DIM, 2, 13)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False) if layers else layer


@idiom("script", wrap="none", layout="sb")
class EncoderLayerSequenceFirst(Encoded):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.encoder(self.emb(input_ids).transpose(0, 1))
        return (x + self.moe(x)).transpose(0, 1)


@idiom("script", wrap="none", layout="sb")
class EncoderStackSequenceFirst(Encoded):
    def __init__(self):
        super().__init__(2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.encoder(self.emb(input_ids).permute(1, 0, 2))
        return x + self.moe(x)


@idiom("script", wrap="none", layout="sb", inputs=lambda: {"src": torch.randn(LENGTH, 2, DIM)})
class EncoderLayerOfSequences(Encoded):
    """The argument itself is [S, B, D]."""

    def forward(self, src: torch.Tensor) -> torch.Tensor:
        x = self.encoder(src)
        return x + self.moe(x)
