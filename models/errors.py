"""Errors of data and models; every message says what to do next."""


class DataError(Exception):
    """The data of an experiment cannot be had or divided as asked."""


class DatasetError(DataError):
    """A data set is missing, unreachable, or not laid out as expected."""


class PartitionError(DataError):
    """The samples cannot be divided among so many workers in the way asked for."""
