"""Space files: the keys of a recipe that a search varies, and the settings of the search.

A space file (space.py, sections.py) says which keys of a recipe vary and how the search goes about it. A key varies by
a distribution (distributions.py); which keys may vary is in allowed_keys.py. Nothing here runs a trial.
"""

from plca_dist.search.space.distributions import Distribution
from plca_dist.search.space.load import load_space, parse_space, spaces
from plca_dist.search.space.sections import Asha, Median, Resources, Scheduler
from plca_dist.search.space.space import Space

__all__ = [
    "Asha", "Distribution", "Median", "Resources", "Scheduler", "Space", "load_space", "parse_space", "spaces",
]  # fmt: skip
