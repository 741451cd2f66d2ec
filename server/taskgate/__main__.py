"""``python -m taskgate`` is the ``taskgate`` command."""

from taskgate.cli import main

if __name__ == "__main__":
    main()
