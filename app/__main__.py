"""The `vae` command as a process: what must not wait for slow imports comes before them."""

import sys

from app.server.startup import begin


def main() -> None:
    """The `vae` command."""
    begin(sys.argv[1:])
    from app.cli import main as run  # noqa: PLC0415  # it takes a moment, in which a signal may come

    run()


if __name__ == "__main__":
    main()
