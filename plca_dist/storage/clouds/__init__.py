"""What is special to each cloud: how its filesystem is opened, and what its errors mean.

s3.py, gcs.py and azure.py are modules of the kind `Cloud` (cloud_files.py). Each imports its cloud's libraries,
which come with an extra for gcs.py and azure.py: a module is imported when its scheme is met first.
"""
