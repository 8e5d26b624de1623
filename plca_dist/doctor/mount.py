"""Disks that several machines mount, and how long each of them believes what it has once seen there."""

import re
from pathlib import Path
from typing import NamedTuple

from plca_dist.doctor.finding import Finding
from plca_dist.run.lease import TTL_S

MOUNTS = Path("/proc/self/mountinfo")
#: File systems of other machines -> seconds that attributes and names are kept, unless a mount's options say otherwise.
_KEPT_S = {"nfs": 60, "nfs4": 60, "cifs": 1, "smb3": 1}
_OPTIONS = ("acregmax", "acdirmax", "actimeo")


class Mount(NamedTuple):
    """Where a file system is mounted, its type, and its options; those without a value have ""."""

    point: str
    kind: str
    options: dict[str, str]


def network_disk(folder: Path) -> Finding | None:
    """Whether a run's lease holds on the disk that a directory is on; None where it is a disk of this machine."""
    mount = _mount(folder)
    if mount is None or mount.kind not in _KEPT_S:
        return None
    kept = _kept_s(mount)
    where = f"{folder} is on {mount.kind} mounted at {mount.point}"
    if "nocto" in mount.options:
        fix = f"{where} with nocto, so a directory that is opened may be an old one; mount it without"
    elif kept > TTL_S:
        fix = (
            f"{where}, which keeps names and attributes for up to {kept:g} s, longer than a run's lease of "
            f"{TTL_S:g} s: launches on two machines could miss each other; mount it with actimeo=3 or noac"
        )
    else:
        return Finding("network disk", True, f"{where}, which keeps names and attributes for {kept:g} s at most")
    return Finding("network disk", False, f"{fix}, or give --storage a bucket.")


def _mount(folder: Path) -> Mount | None:
    """The mount that a directory, which may be missing yet, is on."""
    if not MOUNTS.exists():
        return None
    at = str(folder.resolve())
    found = None
    for line in MOUNTS.read_text(errors="replace").splitlines():
        of_mount, _, of_system = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), of_mount.split()[4])
        kind, _source, options = of_system.split(" ", 2)
        # The last of those at one place lies on top of the others.
        if f"{at}/".startswith(f"{point.rstrip('/')}/") and (found is None or len(point) >= len(found.point)):
            named = dict(option.partition("=")[::2] for option in options.split(","))
            found = Mount(point, kind, named)
    return found


def _kept_s(mount: Mount) -> float:
    if "noac" in mount.options or mount.options.get("lookupcache") == "none":
        return 0.0
    # NFS shows the limits of files and directories where they are not its own.
    shown = {name: float(value) for name in _OPTIONS if (value := mount.options.get(name))}
    if mount.kind.startswith("nfs"):
        return max(shown.get("acregmax", _KEPT_S[mount.kind]), shown.get("acdirmax", _KEPT_S[mount.kind]))
    return max(shown.values(), default=_KEPT_S[mount.kind])
