"""The outer ring: runs on a Ray cluster. The only importers of ray."""
