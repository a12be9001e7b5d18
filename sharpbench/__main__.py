"""``python -m sharpbench`` is the ``sharpbench`` command."""

from sharpbench.cli import main

if __name__ == "__main__":
    main()
