import pytest

from plca_dist.config import Config
from plca_dist.recipe import load


@pytest.fixture(scope="session")
def toytown() -> Config:
    return load("toytown")
