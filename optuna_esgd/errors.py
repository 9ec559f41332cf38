"""Every error this package raises on purpose; each is also the builtin it is a kind of."""

from __future__ import annotations


class EsgdError(Exception):
    """The root: catch this to catch everything the package raises on purpose."""


class ConfigurationError(EsgdError, ValueError):
    """An argument is out of range, or a study was made with other settings than these."""


class StudyError(EsgdError, RuntimeError):
    """The study cannot be used this way (wrong sampler, several objectives, a copy, ...)."""


class TaskError(EsgdError, TypeError):
    """The user's task returned something that training cannot go on with."""


class OptimizerError(EsgdError, RuntimeError):
    """An optimizer raised in its step; the individual it trained goes on from its best weights."""


class StorageError(EsgdError, RuntimeError):
    """The database is unreachable, of another schema version, or of an unknown kind."""


class UnavailableError(StorageError):
    """The database does not answer, or is busy with others: later it may not be."""


class CorruptionError(EsgdError, OSError):
    """Stored bytes do not match their digest; names the chunk and who needs it."""


class WeightsNotFoundError(EsgdError, LookupError):
    """The weights asked for were never stored, or nothing needed them and they were collected."""


class ReplayError(EsgdError, RuntimeError):
    """Training a genealogy again gave other weights than the run; names the first that differ."""


class WorkerError(EsgdError, RuntimeError):
    """Workers keep dying, or user code raises at once; carries what they said last."""


class MissingExtraError(EsgdError, ImportError):
    """An optional part of the package is asked for and not installed; says what to install."""
