"""attn_weights.npy of a run with attention in full."""

import numpy as np
import pytest
import torch
from attention_model import Decoder, EagerAttention, no_past
from conftest import dump_of
from moe_model import VOCABULARY


@pytest.fixture(scope="module")
def attended(moetap, tmp_path_factory):
    """Two texts of 9 and 6 tokens, the second padded on the left; then a step of generation of the first."""
    folder = tmp_path_factory.mktemp("attended")
    torch.manual_seed(0)
    model = Decoder(EagerAttention).eval()
    torch.jit.script(model).save(folder / "model.pt")
    ids = torch.arange(18).reshape(2, 9) % VOCABULARY
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :3] = 0
    (folder / "in").mkdir()
    torch.save({"input_ids": ids, "attention_mask": mask, "past": no_past(2)}, folder / "in/0.pt")
    options = ["--attention", "full", "--dump", "full"]
    done = moetap("run", folder / "model.pt", "--inputs", folder / "in", "-o", folder / "run", *options)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_rows_are_positions_among_the_valid_tokens(attended, export):
    folder = export(attended, "--to", "npy")
    weights, types = np.load(folder / "attn_weights.npy"), np.load(folder / "token_types.npy")
    assert weights.shape == (2, 2, 9, 9) and weights.dtype == np.float32
    assert (types != -1).sum(1).tolist() == [9, 6]
    for layer in range(2):
        for sample, length in enumerate((9, 6)):
            block = weights[layer, sample]
            assert block[:length].sum(1) == pytest.approx(np.ones(length), abs=1e-5)
            assert (block[length:] == 0).all() and (block[:, length:] == 0).all()
            assert (np.triu(block, 1) == 0).all()
    matrices = dump_of(attended, "language_model.attention")
    assert np.array_equal(weights[1, 0], matrices["1/0/0"])
    assert np.array_equal(weights[0, 1, :6, :6], matrices["0/1/0"])
