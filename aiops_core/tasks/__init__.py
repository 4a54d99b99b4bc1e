"""One package a task, with the same names in each."""
