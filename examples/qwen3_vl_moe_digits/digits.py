"""The task: scikit-learn's handwritten digits as questions to a vision-language model.

An example is one 8x8 image and a question; the model answers with the digit's token at the last position.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib

import torch

SIZE = 8  # pixels a side
PATCH = 2
GRID = SIZE // PATCH
MERGE = 2  # patches a side that become one token
IMAGE_TOKENS = (GRID // MERGE) ** 2
TEMPORAL = 2  # frames of a patch; a still image fills them with copies
HELD_OUT_SHARE = 0.2

IMAGE, VIDEO, VISION_START, VISION_END = "<image>", "<video>", "<vision>", "</vision>"
WORDS = (
    *("<pad>", "<start>", "<end>", IMAGE, VIDEO, VISION_START, VISION_END),
    *"0123456789",
    *("which", "digit", "is", "this", "what", "number", "do", "you", "see", "read", "the", "image", "?"),
)
TOKEN = {word: index for index, word in enumerate(WORDS)}
QUESTIONS = ("which digit is this ?", "what number do you see ?", "read the image ?")


@dataclasses.dataclass
class Digits:
    pixels: torch.Tensor  # float32 [N, 8, 8] in [-1, 1]
    labels: torch.Tensor  # int64 [N]

    def __len__(self) -> int:
        return len(self.labels)


def load_digits() -> tuple[Digits, Digits]:
    """Training and held-out images, always the same split, every digit in its share."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    data = load()
    images = torch.tensor(data.images, dtype=torch.float32) / 8.0 - 1.0
    labels = torch.tensor(data.target, dtype=torch.long)
    train, held_out = train_test_split(
        range(len(labels)), test_size=HELD_OUT_SHARE, random_state=0, stratify=data.target
    )
    return tuple(Digits(images[list(part)], labels[list(part)]) for part in (train, held_out))


def png(image: torch.Tensor) -> bytes:
    """[8, 8] in [-1, 1] as a PNG file, 8 bits of grey."""
    grey = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).tolist()

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(row) for row in grey)  # 0: the row is stored as it is
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def patches(images: torch.Tensor) -> torch.Tensor:
    """[B, 8, 8] -> [B * patches, values] in the order of the family's image processor: the patches of a merged token
    lie together."""
    batch = images.shape[0]
    blocks = GRID // MERGE
    x = images.reshape(batch, blocks, MERGE, PATCH, blocks, MERGE, PATCH)
    x = x.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch * GRID * GRID, 1, PATCH, PATCH)
    return x.expand(-1, TEMPORAL, -1, -1).reshape(batch * GRID * GRID, -1).contiguous()


def prompt(question: str) -> list[int]:
    """Token ids of an image and a question about it."""
    words = [VISION_START, *[IMAGE] * IMAGE_TOKENS, VISION_END, *question.split()]
    return [TOKEN[word] for word in words]


def inputs(images: torch.Tensor, question: str) -> dict[str, torch.Tensor]:
    """The forward's arguments for a batch of images with one question."""
    batch = images.shape[0]
    ids = torch.tensor([prompt(question)] * batch)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": positions(ids),
        "pixel_values": patches(images),
        "image_grid_thw": torch.tensor([[1, GRID, GRID]] * batch),
    }


def positions(ids: torch.Tensor) -> torch.Tensor:
    """[3, B, S]: time, row and column of each token, as the family numbers them: text counts on, an image's tokens
    share one time and lie on a grid, text goes on after the largest of these."""
    side = GRID // MERGE
    axes: list[list[int]] = [[], [], []]
    following, place = 0, 0
    for token in ids[0].tolist():
        if token == TOKEN[IMAGE]:
            row, column = divmod(place, side)
            for axis, offset in zip(axes, (0, row, column), strict=True):
                axis.append(following + offset)
            place += 1
            if place == IMAGE_TOKENS:
                following += side
        else:
            for axis in axes:
                axis.append(following)
            following += 1
    return torch.tensor(axes).unsqueeze(1).expand(-1, ids.shape[0], -1).contiguous()


def answers(logits: torch.Tensor) -> torch.Tensor:
    """The digit [B] that the logits [B, S, vocabulary] name at the last position."""
    first = TOKEN["0"]
    return logits[:, -1, first : first + 10].argmax(dim=-1)
