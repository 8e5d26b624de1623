"""Wait until every node of the job has joined its Ray, and say what there is: `ready.py SECONDS NODE…`.

Ends with 1 and the names of those that are missing when the time is up. RAY_ADDRESS says where the head will be.
"""

import os
import socket
import sys
import time

import ray


def listens(address: str) -> bool:
    """Whether anybody does; Ray itself asks for minutes and says nothing."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def joined() -> set[str]:
    return {node["NodeName"] for node in ray.nodes() if node["Alive"]}


def main(seconds: float, names: set[str]) -> str | None:
    """What is wrong, if anything."""
    address, deadline = os.environ["RAY_ADDRESS"], time.monotonic() + seconds
    while not listens(address):
        if time.monotonic() > deadline:
            return f"nobody listens at {address} after {seconds:g} s"
        time.sleep(0.5)
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    while missing := names - joined():
        if time.monotonic() > deadline:
            return f"after {seconds:g} s these nodes are missing: {' '.join(sorted(missing))}"
        time.sleep(0.5)
    have = ray.cluster_resources()
    what = f"{len(names)} nodes, {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs"
    print(f"job: Ray at {address} has {what}", flush=True)
    return None


if __name__ == "__main__":
    if wrong := main(float(sys.argv[1]), set(sys.argv[2:])):
        sys.exit(f"job: {wrong}")
