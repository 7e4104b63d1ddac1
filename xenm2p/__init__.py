"""Replay captured Xen grant-map traces through exact models of Linux's p2m/m2p code."""

__version__ = "0.1.0"
