"""Compiled scanners of log lines: from the bytes of a block to columns, one pass over the text.

Each format's scanner reads the lines that are plainly regular, and says of every other line that it is not sure of it:
such a line is read by the format's own, slower rules. A scanner never decides that a line is bad.
"""
