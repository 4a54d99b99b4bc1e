"""Texts without the credentials that addresses in them may hold."""

from __future__ import annotations

import re

__all__ = ["redacted"]

#: User and password of an address; the password may hold an @, but no slash.
_CREDENTIALS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#'\"<>]*@")


def redacted(text: str) -> str:
    """Return a text with the user and password of every address in it replaced by three stars.

    Examples
    --------
    >>> redacted("no server answers at 'https://svc:s3cret@mlflow:5000/api'")
    "no server answers at 'https://***@mlflow:5000/api'"
    >>> redacted("postgresql+psycopg2://svc:p@ss@db/mlflow"), redacted("mail to a@b.org about http://host/x@y")
    ('postgresql+psycopg2://***@db/mlflow', 'mail to a@b.org about http://host/x@y')
    """
    return _CREDENTIALS.sub(r"\1***@", text) if "://" in text else text
