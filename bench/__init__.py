"""Benchmarks: ours and a reference in the same run, one JSON line a figure."""
