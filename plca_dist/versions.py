"""Versions of the packages that must agree on all nodes of a cluster. Imports the standard library alone."""

from importlib.metadata import PackageNotFoundError, version

#: The packages whose versions must be the same on all nodes; timm is an extra.
PACKAGES = ("plca-dist", "torch", "ray", "deepspeed", "timm")


def installed() -> dict[str, str | None]:
    """The versions of `PACKAGES` in this process's environment; None: not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
