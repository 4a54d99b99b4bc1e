"""Backup and restore of what a service must not lose: registry, state folder and keys, in one archive.

The archive is a gzipped tar: ``registry/`` (database and artifacts of registered versions), ``state/`` (pointers, audit log,
jobs, windows), ``keys/``, and at its end ``manifest.json`` with the SHA-256 of every member. It holds what the keys file
and the state folder hold, so it is written for its user alone; keep it like a password.
"""
