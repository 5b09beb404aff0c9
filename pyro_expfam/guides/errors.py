"""Errors of a guide that is asked for what it does not have."""

from __future__ import annotations


class UnseenError(RuntimeError, AttributeError):
    """A guide does not know yet what it is asked for."""


class SeveralBlocksError(ValueError, AttributeError):
    """A guide of several blocks is asked for something of the only block."""


class NoCoefficientGuideError(UnseenError, ValueError):
    """A guide has no posterior of loading and intercept, and is asked for something of it."""
