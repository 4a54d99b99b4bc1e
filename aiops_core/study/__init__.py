"""One task from data to verdict, its pictures and the report."""
