"""What is special to each cloud: how its filesystem is opened, and what its errors mean.

s3.py, gcs.py and azure.py are modules of the kind `Cloud` (cloud_files.py). Each imports its cloud's libraries,
which come with an extra for gcs.py and azure.py: a module is imported when its scheme is met first.
"""

import logging

# They print what a person reads in one line of ours.
for _noisy in ("gcsfs", "google.auth", "azure", "aiobotocore"):
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)
