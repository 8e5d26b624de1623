"""`plca doctor`."""

from argparse import Namespace

from plca_dist.cli.options import Commands, add_command, add_endpoint
from plca_dist.output import say


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "doctor",
        run,
        "check Python, torch, CUDA, Ray, DeepSpeed and the store, and say what to fix",
        """
plca doctor
plca doctor --storage s3://bucket/runs
plca doctor --storage s3://bucket/runs --endpoint http://127.0.0.1:8333
plca doctor --cluster --gpu --storage s3://bucket/runs""",
        "The exit code is 1 where something fails.",
    )
    parser.add_argument("--storage", default="runs", metavar="URI", help="store to try (default: %(default)s)")
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="look at every node of the Ray cluster (RAY_ADDRESS): versions, GPUs, /dev/shm, the store from there",
    )
    parser.add_argument("--gpu", action="store_true", help="fail where there is no GPU for a worker")
    add_endpoint(parser)


def run(parsed: Namespace) -> int:
    from plca_dist.doctor.examine import examine
    from plca_dist.storage import Location

    storage = Location(parsed.storage, parsed.endpoint)
    failed = False
    for finding in examine(storage, cluster=parsed.cluster, gpu=parsed.gpu):
        failed |= not finding.good
        say(f"{'ok  ' if finding.good else 'FAIL'}  {finding.what}: {finding.detail}")
    return int(failed)
