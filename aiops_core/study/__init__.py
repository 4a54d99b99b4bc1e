"""One task from data to verdict, its pictures and the report.

Import its modules by name: the command line shows a verdict without loading what trains and draws.
"""
