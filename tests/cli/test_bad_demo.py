"""What `plca demo` refuses before it writes anything."""

from pathlib import Path

import pytest
import timm
import torch

from plca_dist.demo import photographs
from tests.cli.conftest import Refused


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "lite0.pth"
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), path)
    return path


def test_the_first_data_set_is_the_source(tmp_path: Path) -> None:
    idd, camvid = ("idd_lite", tmp_path / "idd"), ("camvid", tmp_path / "camvid")
    subject = photographs(idd, camvid, "hub")
    assert (subject.recipe, subject.settings) == ("idd_to_camvid", ('model.weights="hub"',))
    assert "IDD Lite with its labels and on CamVid without" in subject.lead
    assert photographs(camvid, idd, "hub").recipe == "camvid_to_idd"


def test_photographs_that_cannot_be_had_are_refused(refused: Refused, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    camvid, idd = f"camvid={tmp_path}", f"idd_lite={tmp_path}"
    rest = ("--weights", weights, "--out", out)
    assert "--photographs and --weights go together" in refused("demo", "--photographs", camvid, idd)
    assert "--photographs and --weights go together" in refused("demo", "--weights", weights)
    assert "takes the two data sets camvid and idd_lite, source first, got camvid and cityscapes" in refused(
        "demo", "--photographs", camvid, "cityscapes=x", *rest
    )
    assert "got camvid and camvid;" in refused("demo", "--photographs", camvid, camvid, *rest)
    assert f"model.weights: {tmp_path}/none.pth does not exist" in refused(
        "demo", "--photographs", camvid, idd, "--weights", tmp_path / "none.pth", "--out", out
    )
    (tmp_path / "text.pth").write_text("no weights")
    assert "text.pth" in refused("demo", "--photographs", camvid, idd, "--weights", tmp_path / "text.pth", "--out", out)
    assert f"{tmp_path} is no camvid dataset" in refused("demo", "--photographs", camvid, idd, *rest)
    assert not list(out.glob("**/*.parquet"))
