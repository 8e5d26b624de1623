"""What a search tries: space files, checked against the config tree before anything starts.

A space file says how keys of a recipe vary (distribution.py), which of them may (varied.py), and how the search goes
about it (space.py, sections.py). Nothing here runs a trial.
"""

from plca_dist.search.space.distributions import Distribution
from plca_dist.search.space.load import load_space, parse_space
from plca_dist.search.space.sections import Asha, Median, Resources, Scheduler
from plca_dist.search.space.space import Space

__all__ = ["Asha", "Distribution", "Median", "Resources", "Scheduler", "Space", "load_space", "parse_space"]
