"""A front-end by itself: python perceive.py frontend=tinysam frontend.tinysam.checkpoint=... source=image.png."""

from tinyvla_scripts.perceive import main

if __name__ == "__main__":
    main()
