"""The parts of `make bench`: see bench.py."""
