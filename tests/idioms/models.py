"""Whole models: several inputs, images beside text, an encoder and a decoder, layers with and without experts."""

import torch
import torch.nn.functional as F
from parts import BATCH, DIM, LENGTH, VOCAB, Expert, idiom, input_ids
from recorder import on, seen, used
from structure import Block, PlainMoE
from torch import nn


@idiom("script", wrap="none", layout="b", inputs=lambda: {**input_ids(), "pixel_values": torch.randn(BATCH, 3, 6, 6)})
class ImageBesideText(nn.Module):
    """LLaVA: patches through a projector before the text's embeddings, then one layer of experts."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 3, stride=3)
        self.projector = nn.Sequential(nn.Linear(8, DIM), nn.GELU(), nn.Linear(DIM, DIM))
        self.emb = nn.Embedding(VOCAB, DIM)
        self.block = Block(PlainMoE())
        self.head = nn.Linear(DIM, VOCAB)

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        image = self.projector(self.patch(pixel_values).flatten(2).transpose(1, 2))
        x = torch.cat([image, self.emb(input_ids)], dim=1)
        return self.head(self.block(x))


def padded() -> dict[str, torch.Tensor]:
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[1, 5:] = 0
    return {**input_ids(), "attention_mask": mask}


@idiom("script", wrap="none", inputs=padded)
class PaddingMasked(nn.Module):
    """A padding mask that self-attention adds; experts see all tokens."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.q, self.k, self.v = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.block = Block(PlainMoE())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        bias = (1.0 - attention_mask[:, None, :].to(x.dtype)) * -1e9
        a = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) + bias, dim=-1)
        return self.block(x + a @ self.v(x))


@idiom("script", wrap="none", calls=2)
class EveryOtherLayer(nn.Module):
    """Dense and sparse layers alternate, chosen by a flag of each layer."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.layers = nn.ModuleList([Block(PlainMoE() if n % 2 else Expert()) for n in range(4)])
        self.norm = nn.LayerNorm(DIM)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


@idiom("trace", wrap="none", layout="b", batch=3, inputs=lambda: {"pixel_values": torch.randn(3, 3, 6, 6)})
class ClassTokenVision(nn.Module):
    """A class token before the patches; the head reads it."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, 2, stride=2)
        self.cls = nn.Parameter(torch.randn(1, 1, DIM))
        self.block = Block(TracedMoE())
        self.head = nn.Linear(DIM, 4)

    def forward(self, pixel_values):
        x = self.patch(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1)
        return self.head(self.block(x)[:, 0])


class TracedMoE(PlainMoE):
    """Keeps [B, S, ..] all the way."""

    def forward(self, x):
        logits = self.gate(x)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            share = (w * (ids == e)).sum(-1, keepdim=True)
            out = out + share * expert(x)
        if on():
            seen(logits)
            used(self, ids, w, x, out)
        return out


@idiom("trace", wrap="none", layout="b", inputs=lambda: {"past_values": torch.randn(BATCH, 12, 1)})
class TimeSeriesPatches(nn.Module):
    """Patches of a series; routed experts and a shared one behind a sigmoid gate (Time-MoE)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, DIM)
        self.norm = nn.LayerNorm(DIM)
        self.moe = TracedMoE()
        self.shared, self.shared_gate = Expert(), nn.Linear(DIM, 1, bias=False)
        self.head = nn.Linear(DIM, 3)

    def forward(self, past_values):
        x = self.embed(past_values.squeeze(-1).unfold(1, 3, 3))
        h = self.norm(x)
        x = x + self.moe(h) + torch.sigmoid(self.shared_gate(h)) * self.shared(h)
        return self.head(x)


def pairs() -> dict[str, torch.Tensor]:
    return {**input_ids(), "decoder_input_ids": torch.randperm(VOCAB)[: BATCH * 5].view(BATCH, 5)}


@idiom("script", wrap="none", calls=2, layout=None, inputs=pairs)
class EncoderAndDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.encoder, self.decoder = Block(PlainMoE()), Block(PlainMoE())
        self.cross = nn.Linear(DIM, DIM)

    def forward(self, input_ids: torch.Tensor, decoder_input_ids: torch.Tensor) -> torch.Tensor:
        memory = self.encoder(self.emb(input_ids))
        x = self.emb(decoder_input_ids)
        a = torch.softmax(self.cross(x) @ memory.transpose(1, 2), dim=-1)
        return self.decoder(x + a @ memory)


@idiom("script", wrap="none", calls=2)
class ArcticParallelResidual(nn.Module):
    """A dense residual branch beside the experts, which read the layer's input under a norm of their own."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.dense = nn.ModuleList([Block(Expert()) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(DIM) for _ in range(2)])
        self.moes = nn.ModuleList([PlainMoE() for _ in range(2)])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        for dense, norm, moe in zip(self.dense, self.norms, self.moes):  # noqa: B905 - TorchScript knows no strict
            x = dense(x) + moe(norm(x))
        return x


@idiom("script", wrap="none", calls=2)
class ExpertsInAttentionAndMlp(nn.Module):
    """JetMoE: value projections and the feed-forward part are both routed."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.q, self.k = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.values, self.mlp = PlainMoE(), PlainMoE()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        v = self.values(x)
        a = F.softmax(self.q(x) @ self.k(x).transpose(-1, -2) / 3.2, dim=-1)
        x = x + torch.matmul(a, v)
        return x + self.mlp(x)


@idiom("script", wrap="none", layout=None, inputs=lambda: {"x": torch.randn(11, DIM)})
class FlatRowsAsInput(nn.Module):
    """A table of samples, as recommenders and the labels of tabular data have it."""

    def __init__(self):
        super().__init__()
        self.bottom = nn.Linear(DIM, DIM)
        self.moe = PlainMoE()
        self.top = nn.Linear(DIM, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.bottom(x))
        return torch.sigmoid(self.top(self.moe(h)))
