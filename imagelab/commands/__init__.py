"""The commands of `python -m imagelab`, one module for each group; imagelab.cli puts them together."""
