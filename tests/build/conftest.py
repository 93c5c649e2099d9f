import os
from pathlib import Path

import pytest
from installed_package import run


@pytest.fixture(scope="session")
def prefix(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", os.environ["MOETAP_BUILD_DIR"], "--prefix", path)
    return path
