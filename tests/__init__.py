"""A package, so that none of this name that a library brings along is found instead."""
