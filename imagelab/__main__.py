"""Entry point of `python -m imagelab`."""

from imagelab.cli import main

if __name__ == "__main__":
    main()
