"""The way into the `saccade` command. `saccade probe` runs every few seconds: it skips what others need to start."""

import sys


def main() -> None:
    """Run the command."""
    if sys.argv[1:2] == ["probe"]:
        from service.probe import main as probe

        sys.exit(probe(sys.argv[2:]))
    from service.cli import main as cli

    cli()


if __name__ == "__main__":
    main()
