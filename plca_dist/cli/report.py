"""`plca report`."""

from argparse import Namespace

from plca_dist.cli.options import Commands, add_command, add_endpoint, add_workers, at_least, ratio
from plca_dist.output import say


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "report",
        run,
        "make one page of one or several runs: curves, tables, pictures",
        """
plca report runs/toytown
plca report runs/source-only runs/toytown --out comparison
plca report runs/toytown --data data/toytown/val --images 8 --candidates 100
plca report s3://bucket/runs/gtav --images 0
plca report s3://bucket/runs/source-only s3://bucket/runs/gtav --out s3://bucket/report --workers 4 --gpu""",
        """Runs need not be finished: the page says what is not there yet. Of several runs the last is compared with the
        first. Of the images shown, half are the worst of the last run, and half its best. The page is one HTML file
        that needs no network; its pictures are beside it as PNG files. --workers and --gpu serve the scoring of
        candidates alone; the pictures are drawn by this process, on the CPU.""",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="directories or URIs of runs, in the order of columns")
    parser.add_argument("--out", metavar="DIR", help="folder or URI (default: RUN/report; of several runs, report)")
    parser.add_argument(
        "--data", metavar="URI", default="", help="labelled shards (default: the recipe's evaluation.uri)"
    )
    parser.add_argument(
        "--images", type=at_least(0), default=6, metavar="N", help="number of images shown (default: 6); 0: no pictures"
    )
    parser.add_argument(
        "--candidates",
        type=at_least(1),
        default=50,
        metavar="N",
        help="chosen from the first N of the set (default: 50)",
    )
    parser.add_argument(
        "--aggregation",
        type=ratio,
        default=0.0,
        metavar="λ",
        help="ratio for the predictions shown (default: 0, without)",
    )
    add_workers(parser)
    add_endpoint(parser)


def run(parsed: Namespace) -> None:
    from plca_dist.config import ClusterSettings
    from plca_dist.report.pictures import PictureOptions
    from plca_dist.report.write import report
    from plca_dist.storage import Location
    from plca_dist.terminal import Counters

    options = PictureOptions(
        data=Location(parsed.data, parsed.endpoint) if parsed.data else None,
        images=parsed.images,
        candidates=parsed.candidates,
        aggregation=parsed.aggregation,
        workers=ClusterSettings(workers=parsed.workers, gpu=parsed.gpu),
    )
    runs = [Location(run, parsed.endpoint) for run in parsed.runs]
    out = Location(parsed.out, parsed.endpoint) if parsed.out else None
    with Counters() as counters:
        page, *pictures = report(runs, out, options, counters.show)
    say(f"page: {page}", *(f"  {picture}" for picture in pictures))
