"""Tests of the guest package on a native Python: `python3 -m unittest discover -s tests -t .` in the folder above."""
