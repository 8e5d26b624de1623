import re
import shutil
from pathlib import Path

import pytest

from tests.kuberay.manifests import KUBERAY


@pytest.fixture
def renamed(tmp_path: Path) -> Path:
    """A copy of overlays/gpu-spot/train in a copy of cluster/kuberay, with the name camvid-1, as README.md says."""
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    own = tmp_path / "kuberay/overlays/gpu-spot/camvid-1"
    shutil.copytree(own.parent / "train", own)
    (operation,) = re.findall(r"`(\{op: replace, path: /metadata/name.*\})`", (KUBERAY / "README.md").read_text())
    file = own / "kustomization.yaml"
    text = file.read_text().replace("      - op: replace", f"      - {operation}\n      - op: replace", 1)
    file.write_text(text.replace("--name gtav-to-cityscapes", "--name camvid-1"))
    return own
