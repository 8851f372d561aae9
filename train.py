"""Collect demonstrations, train a policy, evaluate it and report: python train.py policy=tinyvla env=metaworld."""

from tinyvla_scripts.train import main

if __name__ == "__main__":
    main()
