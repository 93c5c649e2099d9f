"""A Python inference program that knows nothing of moetap:  python_host.py MODEL.pt INPUT.pt...

Runs the model's forward on each input (a tuple of arguments that torch.save wrote) and prints the sum of each output.
"""

import sys

import torch


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: python_host.py MODEL.pt INPUT.pt...")
    model = torch.jit.load(sys.argv[1])
    model.eval()
    with torch.no_grad():
        for path in sys.argv[2:]:
            output = model(*torch.load(path))
            print(f"{float(output.sum(dtype=torch.float64)):.17g}")


if __name__ == "__main__":
    main()
