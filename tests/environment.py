"""Variables of the environment, for as long as a test wants them."""

from collections.abc import Mapping

import pytest


def set_all(patch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)
