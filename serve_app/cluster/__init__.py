"""The processes around the application: HAProxy's files and ports, and what a killed service leaves running."""
