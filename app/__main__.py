"""Entry point of the `vae` command. Signals and standard files are prepared before slow imports."""

import sys

from app.server.startup import prepare_command


def main() -> None:
    """Run the `vae` command."""
    prepare_command(sys.argv[1:])
    from app.cli import main as run  # noqa: PLC0415  # slow; a signal may arrive meanwhile

    run()


if __name__ == "__main__":
    main()
