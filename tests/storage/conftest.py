import pytest

from tests.storage.clouds import CLOUDS, in_cloud


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> str:
    """URI of a bucket, in every cloud."""
    return in_cloud(request)
