"""Models around one layer, with padding: what the layer's rows are, and which of them are tokens."""

import torch
from parts import BATCH, DIM, LAYOUTS, LENGTH, WRAPS, TokenModel, input_ids
from torch import nn


def right_padded() -> dict[str, torch.Tensor]:
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[1, 4:] = 0
    return {**input_ids(), "attention_mask": mask}


def left_padded() -> dict[str, torch.Tensor]:
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[0, :3] = 0
    return {**input_ids(), "attention_mask": mask}


class Attending(TokenModel):
    """Self-attention that closes padding, then the layer."""

    def __init__(self, moe: nn.Module):
        super().__init__(moe)
        self.qkv = nn.Linear(DIM, 3 * DIM)

    def attend(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        closed = (attention_mask[:, None, :] == 0).expand(-1, x.size(1), -1)
        scores = (q @ k.transpose(1, 2)).masked_fill(closed, -1e4)
        return x + torch.softmax(scores, dim=-1) @ v


class PaddedModel(Attending):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.attend(input_ids, attention_mask)
        return self.head(x + self.moe(self.norm(x)))


class FlatModel(Attending):
    """The layer gets [B * S, D]."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.attend(input_ids, attention_mask)
        flat = x.flatten(0, 1)
        return self.head((flat + self.moe(self.norm(flat))).view_as(x))


class PositionsFirstModel(Attending):
    """The layer gets [S, B, D]."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.attend(input_ids, attention_mask).transpose(0, 1).contiguous()
        x = x + self.moe(self.norm(x))
        return self.head(x.transpose(0, 1))


class PackedModel(Attending):
    """The layer gets the tokens without padding."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.attend(input_ids, attention_mask)
        keep = attention_mask > 0
        rows = x[keep]
        out = x.clone()
        out[keep] = rows + self.moe(self.norm(rows))
        return self.head(out)


def in_bfloat16(moe: nn.Module) -> nn.Module:
    for module in moe.modules():
        if hasattr(module, "close"):
            module.close = 0.1
    return PaddedModel(moe).to(torch.bfloat16)


WRAPS["padded"] = (PaddedModel, right_padded)
WRAPS["padded_left"] = (PaddedModel, left_padded)
WRAPS["flat"] = (FlatModel, right_padded)
WRAPS["positions_first"] = (PositionsFirstModel, right_padded)
WRAPS["packed"] = (PackedModel, left_padded)
WRAPS["bfloat16"] = (in_bfloat16, right_padded)
LAYOUTS["positions_first"] = "sb"
LAYOUTS["packed"] = "packed"
