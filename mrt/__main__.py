"""`python -m mrt` and `accelerate launch -m mrt` are the `mrt` command."""

from mrt.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
