"""What crosses the HTTP border: requests, answers, problems, and the words for them. Nothing here knows a model."""
