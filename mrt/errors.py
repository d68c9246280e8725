"""Errors in a user's input, each told in one sentence that names the cause and the cure."""


class MRTError(Exception):
    """A mistake that the user can fix. Commands print its text, without a traceback, and exit with 2."""


class ConfigError(MRTError):
    """A recipe, an option or a combination of them that cannot work."""


class DataError(MRTError):
    """A data file or row that cannot be used; the message names the file, the row and the column."""


class CheckpointError(MRTError):
    """A checkpoint that is torn, missing or of another run."""


class SyncError(MRTError):
    """An engine that samples from weights other than those being trained."""


def nearest(name: str, valid: "list[str] | tuple[str, ...] | set[str]") -> str:
    """`did you mean 'x'?` for a misspelt name, or the list of what is valid where nothing comes close."""
    import difflib

    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return "valid are: " + ", ".join(sorted(valid))
