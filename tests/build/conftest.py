import os
import sys
from pathlib import Path

import pytest
import torch
from installed_package import ROOT, run

sys.path.insert(0, str(ROOT / "tests" / "cli"))

from moe_model import MoeModel


@pytest.fixture(scope="session")
def prefix(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", os.environ["MOETAP_BUILD_DIR"], "--prefix", path)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "moe.pt"
    torch.manual_seed(0)
    torch.jit.script(MoeModel()).save(path)
    return path
