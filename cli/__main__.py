"""`python -m maskpack.cli`, as `torchrun -m` and `accelerate launch -m` start it."""

from maskpack.cli.app import main

if __name__ == "__main__":
    main()
