"""What is decided on live traffic: which version answers beside the champion, and which of the two is better."""
