"""Export a trained policy: python export.py checkpoint=outputs/<run> format=onnx."""

from tinyvla_scripts.export import main

if __name__ == "__main__":
    main()
