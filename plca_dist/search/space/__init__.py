"""Space files: the keys of a recipe that a search varies, and the settings of the search.

A space is checked against the config tree before anything starts. distributions.py holds the ways in which a key can
vary, allowed_keys.py the keys that may vary, space.py and sections.py the whole file. Nothing here runs a trial.
"""

from plca_dist.search.space.distributions import Distribution
from plca_dist.search.space.load import load_space, parse_space
from plca_dist.search.space.sections import Asha, Median, Resources, Scheduler
from plca_dist.search.space.space import Space

__all__ = ["Asha", "Distribution", "Median", "Resources", "Scheduler", "Space", "load_space", "parse_space"]
