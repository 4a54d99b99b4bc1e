"""Replay: how each version would have alerted on what the journal holds, and why one answer came out as it did."""
