"""Readers of published layouts, of plain folders, and of drawn scenes."""
