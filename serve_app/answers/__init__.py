"""From the body of a prediction request to the body of its answer: one service for each task, and what they share."""
