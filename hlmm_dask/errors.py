"""Errors whose message is the whole story: what was found, what was expected, what to do."""


class InputError(ValueError):
    """Bad input, found before any work is done.

    The message is one line that names the file, the line or ID, and the remedy; a command
    prints it and exits with 2.
    """


class ChangedInputError(InputError):
    """An input file is no longer the one that was opened."""


class StoreError(RuntimeError):
    """The results store can't be used: it exists, belongs to another run, or is damaged."""


class TakenOverError(StoreError):
    """Another run has the results store now; nothing more may be written there or beside it."""


class ScanError(RuntimeError):
    """Blocks could not be computed; the others are kept and the run can be resumed."""


class ScanCancelled(ScanError):
    """The scan was ended by `Run.cancel`; finished blocks are kept."""


class ClusterLostError(ScanError):
    """Scheduler or workers are gone; the same command with --resume goes on elsewhere."""
