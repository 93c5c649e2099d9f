"""Tokens that are cut, turned, put in windows or chosen by place before the router sees them."""

import torch
from parts import BATCH, DIM, LENGTH, VOCAB, Expert, idiom, images, input_ids
from recorder import on, seen, used
from structure import PlainMoE
from torch import nn


def of_samples(rows: int) -> list[tuple[int, int]]:
    """Rows sample by sample that are no column of an argument: the position is the row's place in the call."""
    return [(row // (rows // BATCH), row) for row in range(rows)]


def of_no_sample(rows: int) -> list[tuple[int, int]]:
    """Rows whose sample is not known."""
    return [(-1, row) for row in range(rows)]


def of_repeated_samples(rows: int) -> list[tuple[int, int]]:
    length = rows // (2 * BATCH)
    return [(row // (2 * length), row % length) for row in range(rows)]


def of_windows_first(rows: int) -> list[tuple[int, int]]:
    """[windows, B, 9]."""
    return [(row // 9 % 3, row) for row in range(rows)]


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe = PlainMoE()


@idiom("script", wrap="none", layout=of_samples)
class FirstTokenLeftOut(Embedded):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        return torch.cat([x[:, :1], x[:, 1:] + self.moe(x[:, 1:])], dim=1)


@idiom("script", wrap="none", layout=of_samples)
class EveryOtherToken(Embedded):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids).clone()
        x[:, ::2] = x[:, ::2] + self.moe(x[:, ::2])
        return x


@idiom("script", wrap="none", layout=of_samples)
class SequenceTurnedRound(Embedded):
    """A backward layer: the sequence is flipped, routed and flipped again."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        return x + self.moe(x.flip(1)).flip(1)


@idiom("script", wrap="none", layout=of_samples)
class SequenceShifted(Embedded):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        return x + torch.roll(self.moe(torch.roll(x, 1, 1)), -1, 1)


@idiom("script", wrap="none", layout=of_no_sample)
class SamplesTurnedRound(Embedded):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        return x + self.moe(x.flip(0)).flip(0)


@idiom("script", wrap="none", layout=None, calls=2)
class HalvesOfTheSequence(Embedded):
    """Two layers of experts, one for the first four tokens, one for the others."""

    def __init__(self):
        super().__init__()
        self.late = PlainMoE()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        first, second = self.emb(input_ids).split([4, 3], dim=1)
        return torch.cat([first + self.moe(first), second + self.late(second)], dim=1)


@idiom("script", wrap="none", layout="bs")
class EvenBeforeOdd(Embedded):
    """Two strided parts put together before the router: positions are columns of the two behind each other."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        return self.moe(torch.cat([x[:, ::2], x[:, 1::2]], dim=1))


@idiom("script", wrap="none", layout=of_samples)
class PositionsByATable(Embedded):
    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.tensor([3, 0, 6, 1, 5, 2, 4]))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.moe(self.emb(input_ids)[:, self.order])


@idiom("script", wrap="none", layout=of_repeated_samples)
class SamplesRepeated(Embedded):
    """Two hypotheses of each sample, beside each other."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids).repeat_interleave(2, dim=0)
        return x + self.moe(x)


@idiom("script", wrap="none", layout=of_no_sample)
class BatchRepeated(Embedded):
    """A second pass of the whole batch behind the first (classifier-free guidance)."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        x = torch.cat([x, x * 0.5])
        return x + self.moe(x)


class WindowMoE(PlainMoE):
    def forward(self, x):
        logits = self.gate(x)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            out = out + (w * (ids == e)).sum(-1, keepdim=True) * expert(x)
        if on():
            seen(logits)
            used(self, ids, w, x, out)
        return out


@idiom("trace", wrap="none", batch=3, layout="b", inputs=lambda: images(12))
class WindowsOfAnImage(nn.Module):
    """Patches in windows of three by three: rows are window by window."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, 2, stride=2)
        self.moe, self.mlp = WindowMoE(), Expert()

    def forward(self, pixel_values):
        x = self.patch(pixel_values).permute(0, 2, 3, 1)  # [B, 6, 6, D]
        b, h, w, d = x.shape
        x = x.view(b, h // 3, 3, w // 3, 3, d).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, d)
        x = x + self.moe(x)
        x = x.view(b, h // 3, w // 3, 3, 3, d).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, d)
        return self.mlp(x)


@idiom("trace", wrap="none", batch=3, layout=of_windows_first, inputs=lambda: images(12))
class ShiftedWindowsWindowFirst(nn.Module):
    """Shifted windows, kept as [windows, B, 9, D]: samples lie inside."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, 2, stride=2)
        self.moe, self.mlp = WindowMoE(), Expert()

    def forward(self, pixel_values):
        x = self.patch(pixel_values).permute(0, 2, 3, 1)
        b, h, w, d = x.shape
        x = torch.roll(x, shifts=(-1, -1), dims=(1, 2))
        x = x.view(b, h // 3, 3, w // 3, 3, d).permute(1, 3, 0, 2, 4, 5).reshape(-1, b, 9, d)
        x = x + self.moe(x)
        return self.mlp(x.mean(dim=(0, 2)))


@idiom(
    "trace",
    wrap="none",
    batch=3,
    layout=of_no_sample,
    inputs=lambda: {"video": torch.randn(3, 4, 3, 6, 6)},
)
class FramesOfAVideo(nn.Module):
    """Frames are folded into the batch, patches of each are routed."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, 2, stride=2)
        self.moe = WindowMoE()

    def forward(self, video):
        b, t = video.shape[:2]
        x = self.patch(video.flatten(0, 1)).flatten(2).transpose(1, 2)
        x = x + self.moe(x)
        return x.view(b, t, x.shape[1], -1).mean(dim=(1, 2))


def token_and_mask() -> dict[str, torch.Tensor]:
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[1, 5:] = 0
    return {**input_ids(), "attention_mask": mask}


@idiom("script", wrap="none", inputs=token_and_mask)
class PaddingHasNoWeight(Embedded):
    """The padding's weights are set to zero."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat = x.view(-1, x.size(-1))
        logits = self.moe.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        w = w * attention_mask.reshape(-1, 1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.moe.experts):
            token, slot = torch.where(ids == e)
            out.index_add_(0, token, expert(flat[token]) * w[token, slot].unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids, w, flat, out)
        return x + out.view_as(x)


@idiom("script", wrap="none", inputs=token_and_mask)
class PaddingGoesNowhere(Embedded):
    """The padding's ids are set to the number of experts."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat = x.view(-1, x.size(-1))
        logits = self.moe.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        ids = ids.masked_fill(attention_mask.view(-1, 1) == 0, 6)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.moe.experts):
            token, slot = torch.where(ids == e)
            out.index_add_(0, token, expert(flat[token]) * w[token, slot].unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids, w, flat, out)
        return x + out.view_as(x)
