"""The versions of the libraries that a result depends on, imagelab's own among them."""


def library_version(name: str) -> str:
    """Return the installed version of a library by its distribution's name, "0+unknown" where it isn't installed."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, rarely asked for

    try:
        return version(name)
    except PackageNotFoundError:  # imagelab from a source checkout on sys.path
        return "0+unknown"
