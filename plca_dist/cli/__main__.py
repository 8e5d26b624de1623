"""`python -m plca_dist.cli`, where the `plca` script is not on the path."""

import sys

from plca_dist.cli import main

sys.exit(main())
