"""Reports of runs: tables of scores, pictures, curves, and one page that holds them all."""
