"""What the attempts at a run wrote, each in a directory of its own.

An attempt that was taken for dead may wake up and write once more. It then changes files of its own only, and these no
longer count: what counts is in the directory of the newest attempt, and in files that are created once.
"""

from plca_dist.config import Config
from plca_dist.recipe import parse
from plca_dist.run_files import ATTEMPTS, RECIPE
from plca_dist.storage import Store


def newest(run: Store, file: str) -> str | None:
    """The name of `file` in the directory of the newest attempt that has one."""
    of_attempts = (entry.name for entry in run.list(ATTEMPTS) if entry.name.split("/")[2:] == [file])
    return max(of_attempts, default=None)


def current(run: Store, file: str) -> str | None:
    """The name of `file` as it counts: that of the result where the run has its result, else that of `newest`."""
    return file if run.exists(file) else newest(run, file)


def recipe_of(run: Store) -> Config:
    """The recipe that the run was last launched with. Launches of a run differ in keys that change no result."""
    name = newest(run, RECIPE) or RECIPE
    return parse(run.read(name).decode(), where=f"{run.uri}/{name}")
