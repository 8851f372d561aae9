"""Start of the policy server: python -m policies.remote checkpoints=outputs."""

import sys

from tinyvla.errors import UserError, one_line

from .settings import read_settings


def main() -> None:
    """Read the settings of the command line and serve; a mistake is one line on stderr and exit code 2."""
    try:
        settings = read_settings(sys.argv[1:])
        if settings is not None:
            from .server import serve  # imports PyTorch and LeRobot

            serve(settings)
    except UserError as error:
        print(f"error: {one_line(error, None)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
