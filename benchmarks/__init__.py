"""Benchmarks: how fast, against a bound or an independent implementation in the same process."""
