"""Programs that tests need and a machine may lack."""

import os

import pytest


def unavailable(reason: str, variable: str) -> None:
    """Skip the test for this reason, or fail it where the environment variable is "required", as in CI."""
    if os.environ.get(variable) == "required":
        pytest.fail(reason)
    pytest.skip(reason)
