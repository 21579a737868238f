"""Speed against what people use today, every pair timed in one run: `make bench`, or `python -m tests.benchmarks`."""
