"""The errors that ftlab raises: one message each, saying what, where and what to do."""


class Error(Exception):
    """Base class of every error a user can mend; the command line prints it without a traceback."""


class DataError(Error):
    """A file, row or dataset name that cannot be used."""


class RecipeError(Error):
    """A recipe key or value that cannot be used."""


class ModelError(Error):
    """A model, tokenizer or adapter that cannot be loaded or does not fit."""


class CheckpointError(Error):
    """A run folder or checkpoint that is missing, damaged or in use."""


class EnvironmentProblem(Error):
    """Something about this machine: a version, the disk, the network, a missing program."""
