"""Set-up for all tests: axis names are checked, two threads in all are used, and real data is found or the test is skipped."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

install_import_hook("flint_posthoc", "typechecking.checked")  # before the package's first import

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
settings.register_profile("house", deadline=None, max_examples=30, derandomize=True, database=None)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets and checkpoints."""
    folder = os.environ.get("FLINT_DATA")
    if not folder:
        pytest.skip("FLINT_DATA does not point at real data")
    return Path(folder)
