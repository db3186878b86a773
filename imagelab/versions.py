"""The versions of the libraries that a result depends on, imagelab's own among them."""

from functools import cache

_DRAWING = ("imagelab", "torch", "diffusers", "transformers")


@cache  # it is asked for each picture, and looks through every folder of sys.path
def library_version(name: str) -> str:
    """Return the installed version of a library by its distribution's name, "0+unknown" where it isn't installed."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, rarely asked for

    try:
        return version(name)
    except PackageNotFoundError:  # imagelab from a source checkout on sys.path
        return "0+unknown"


def drawing_versions(compiled_by: str | None = None) -> dict[str, str]:
    """Return the versions of the libraries that draw; where models are compiled, also the compiler's, as `inductor`."""
    versions = {name: library_version(name) for name in _DRAWING}
    return versions | ({"inductor": compiled_by} if compiled_by else {})
