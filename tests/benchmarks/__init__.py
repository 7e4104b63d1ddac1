"""Benchmarks: ``python -m tests.benchmarks [NAME...] [--OPTION...]``.

A script `bench_NAME.py` measures one area: the first line of its docstring is the title
of its table, and its ``main(arguments)`` takes its own command-line arguments and returns
the rows, dicts of column title to text. They measure and report; none asserts a time.
"""
