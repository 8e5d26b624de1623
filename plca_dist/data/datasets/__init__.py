"""Data sets in their published layouts, plain folders, and drawn scenes, each as a `Reader` of samples.

One file for each data set. To add one, write a file like bdd100k.py: its layout, patterns of its paths, and the coding
of its labels, which is a file in ../label_sets/codings; then give it a name in layouts.py. Data sets of image files and
label files share pairing.py or listing.py (which files there are) and file_reader.py (their content, checked).
"""
