"""Table and page of a recording, and what is wrong in it: python inspect_dataset.py dataset.root=data/<recording>."""

from tinyvla_scripts.inspect_dataset import main

if __name__ == "__main__":
    main()
