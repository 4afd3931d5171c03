"""Procedures on a group: one story a file, read from top to bottom like a shell script.

A step examines, acts and examines again. Run twice it says "already so"; killed anywhere and run
again, it comes to the same end.
"""
