"""What stands between raw features and the forest; the exported graph holds the same operations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_softmax

#: Resolution of evidence (steps a nat), and the least of it.
EVIDENCE_STEPS = 16.0
EVIDENCE_FLOOR = -12.0
Z_LIMIT = 5.0


@dataclass
class Inputs:
    """What stands between raw features and the forest; the exported graph holds the same operations.

    Missing values are filled and get indicator columns (a forest's own treatment of NaN converts wrongly). The
    *evidence* columns are the log-probabilities of a multinomial logistic regression on tamed features
    (``asinh``), their squares and missing flags: a sum of many weak hints, which trees can only approximate.

    Attributes
    ----------
    fill : ndarray, (n_features,), float32
        Training median, or most frequent code.
    flagged : ndarray, (k,), int64
        Features that get an indicator column.
    scale, mean, std : ndarray, (n_features,), float32
        Tamed value: ``(asinh((x - fill) / scale) - mean) / std``, clipped to `Z_LIMIT`, 0 where missing.
    coefficients : ndarray, (3 * n_features, n_classes), float32
    intercept : ndarray, (n_classes,), float32
    """

    fill: np.ndarray
    flagged: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray

    @property
    def width(self) -> int:
        """Number of columns of `expand`."""
        return len(self.fill) + len(self.flagged) + 1 + len(self.intercept)

    def expand(self, X: np.ndarray) -> np.ndarray:
        """Return (n, width) float32: filled features, indicators, count of missing features, evidence."""
        missing = np.isnan(X)
        flags = missing.astype(np.float32)
        filled = np.where(missing, self.fill, X)
        plain = [filled, flags[:, self.flagged], flags.sum(axis=1, keepdims=True)]
        if len(self.intercept) == 0:
            return np.concatenate(plain, axis=1)
        logits = self.hints(filled, flags) @ self.coefficients + self.intercept
        evidence = log_softmax(logits, axis=1)
        # Coarse steps: the last bit of a matrix product differs between runtimes and must not flip a split.
        evidence = np.rint(np.maximum(evidence, np.float32(EVIDENCE_FLOOR)) * np.float32(EVIDENCE_STEPS))
        return np.concatenate([*plain, evidence], axis=1)

    def without_evidence(self) -> Inputs:
        """Return a copy whose `expand` leaves the evidence columns out."""
        return replace(self, coefficients=self.coefficients[:, :0], intercept=self.intercept[:0])

    def hints(self, filled: np.ndarray, flags: np.ndarray) -> np.ndarray:
        """Return the inputs of the logistic regression, (n, 3 * n_features) float32."""
        tamed = (np.arcsinh((filled - self.fill) / self.scale) - self.mean) / self.std
        tamed = np.clip(tamed, -Z_LIMIT, Z_LIMIT) * (1 - flags)
        return np.concatenate([tamed, tamed * tamed, flags], axis=1)
