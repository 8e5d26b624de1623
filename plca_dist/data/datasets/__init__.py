"""Data sets in their published layouts, plain folders, and drawn scenes, each as a `Reader` of samples.

One file for each data set. To add one, write a file like gta5.py: its layout, its label code, and a function that
opens it; then give it a name in layouts.py. Data sets of image files and label files share listing.py (which files
there are) and file_reader.py (their content, checked).
"""
