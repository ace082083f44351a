"""Every exception streamprune raises on purpose.

Each is also the builtin a careful caller would have caught anyway:

    StreampruneError
    ├── UsageError              what was asked for cannot be meant (CLI exit code 2)
    │   ├── InvalidValueError   also ValueError
    │   ├── InvalidTypeError    also TypeError and ValueError
    │   ├── UnknownNameError    also ValueError, LookupError; suggests near names
    │   └── RecipeError         also ValueError
    ├── SourceError             a video, camera or folder cannot give frames; also OSError
    │   ├── SourceNotFoundError     also FileNotFoundError
    │   ├── SourcePermissionError   also PermissionError
    │   ├── SourceFormatError       also ValueError
    │   └── SourceTimeoutError      also TimeoutError
    ├── SignalError             a method needs a signal that was not given; also ValueError
    ├── ModelError
    │   ├── ModelNotFoundError      also FileNotFoundError
    │   ├── ModelWeightsError       also ValueError
    │   ├── UnsupportedModelError   also ValueError
    │   ├── ContextLengthError      also ValueError
    │   └── DeviceError             also RuntimeError
    ├── StorageError            writing failed (disk full, no permission); also OSError
    │   └── SnapshotError           a saved stream cannot be read back; also ValueError
    ├── StreamClosedError       a stream that was closed is used; also ValueError
    ├── MemoryBudgetError       bytes do not fit a stream's budget; also MemoryError
    ├── TargetNotMetError       no setting meets what was asked of it; also ValueError
    └── MissingDependencyError  also ImportError; carries the install command

Messages name the parameter or file, what is allowed, what came, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StreampruneError(Exception):
    """Base of every exception this package raises on purpose."""


class UsageError(StreampruneError):
    """What was asked for cannot be meant; asking again unchanged cannot help."""


class InvalidValueError(UsageError, ValueError):
    """A parameter has a value outside its range."""


class InvalidTypeError(UsageError, TypeError, ValueError):
    """A parameter has a type that cannot be used; to most callers no better than a bad value."""


class UnknownNameError(UsageError, ValueError, LookupError):
    """A name is not among the known ones."""

    @classmethod
    def among(cls, noun: str, name: object, known: Iterable[str]) -> UnknownNameError:
        """Build the error for ``name``, with the nearest known names as a suggestion.

        ``noun`` says what was looked up ("method", "backend", ...).
        """
        names = sorted(known)
        if not names:
            return cls(f"unknown {noun} {name!r}; there is none.")
        by_lower = {known_name.lower(): known_name for known_name in names}
        near = difflib.get_close_matches(str(name).lower(), by_lower, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(repr(by_lower[n]) for n in near)}?" if near else ""
        return cls(f"unknown {noun} {name!r}.{hint} Known: {', '.join(names)}.")


class RecipeError(UsageError, ValueError):
    """A recipe (or its TOML text) does not make sense."""


class SourceError(StreampruneError, OSError):
    """A video, camera, folder or array cannot give frames."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """The file or folder does not exist."""


class SourcePermissionError(SourceError, PermissionError):
    """The file or folder may not be read."""


class SourceFormatError(SourceError, ValueError):
    """The source is there but holds no readable video."""


class SourceTimeoutError(SourceError, TimeoutError):
    """The source did not answer in time."""


class SignalError(StreampruneError, ValueError):
    """A method needs a signal that was not given or has the wrong shape."""


class ModelError(StreampruneError):
    """A model cannot be loaded or cannot do what was asked."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No model under that name or folder."""


class ModelWeightsError(ModelError, ValueError):
    """The weights are missing, damaged, or only there as pickles."""


class UnsupportedModelError(ModelError, ValueError):
    """The model's family is not supported, or lacks what a method needs."""


class ContextLengthError(ModelError, ValueError):
    """The prompt is longer than the model's context."""


class DeviceError(ModelError, RuntimeError):
    """The asked-for device is not there or ran out of memory."""


class StorageError(StreampruneError, OSError):
    """Writing failed; what was there before is untouched."""


class SnapshotError(StorageError, ValueError):
    """A saved stream is damaged, of another model, or of a newer version."""


class StreamClosedError(StreampruneError, ValueError):
    """A stream was closed and takes nothing any more."""


class MemoryBudgetError(StreampruneError, MemoryError):
    """More bytes were asked for than a stream's budget has left; nothing was allocated."""


class TargetNotMetError(StreampruneError, ValueError):
    """Of all that was tried nothing meets the targets; the message says what came nearest."""


class MissingDependencyError(StreampruneError, ImportError):
    """An optional dependency is not installed."""

    @classmethod
    def extra(cls, package: str, extra: str, purpose: str) -> MissingDependencyError:
        """Build the error for ``package``, which the extra ``[extra]`` installs and ``purpose`` needs."""
        return cls(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'streamprune[{extra}]'"
        )
