"""The writer of the journal: services hand over what they answered, a thread turns it into records and writes them.

`entries` is what is handed over, `records` makes columns of it, `recorder` writes.
"""
