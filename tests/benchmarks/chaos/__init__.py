"""A real service that is hurt on purpose while it is asked: `python tests/benchmarks/chaos`."""
