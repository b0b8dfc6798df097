"""`python -m rsquant`."""

from rsquant.cli import main

if __name__ == "__main__":
    main()
