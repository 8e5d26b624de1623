"""Templates: a missing value is an error, and a wheel holds every template."""

import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import plca_dist
from plca_dist.report.markup import render_page

PACKAGE = Path(plca_dist.__file__).parent


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render_page("report/templates/report.html.jinja", lead="")


def test_the_templates_are_data_of_the_package() -> None:
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["plca_dist"]
    installed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    templates = {*PACKAGE.rglob("*.jinja"), *PACKAGE.rglob("*.css")}
    assert len(templates) == 6
    assert templates <= installed
