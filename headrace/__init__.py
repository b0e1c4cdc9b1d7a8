"""What producer and consumer share, and the command line."""

__version__ = "0.1.0"
