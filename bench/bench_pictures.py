"""Memory and time of writing a square picture and of reading it reduced to 1024 pixels, each in a process of its own.

python -m bench.bench_pictures --size 16384 --json pictures.json

The peak is that of resident memory, with torch loaded. The picture that is written, float32, is taken off; the one that
is read is never there as a whole. It is a ramp with noise of a twentieth of the range.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from fastnst_kernels.profiling.measure import conditions, peak_resident_bytes

from fastnst.image.read import open_picture
from fastnst.image.resize import at_size
from fastnst.image.write import save_image

REDUCED = 1024
CASES = [(form, depth, action) for form in ("png", "tiff") for depth in (8, 16) for action in ("write", "read")]


def measure(action: str, path: Path, size: int, depth: int) -> dict[str, float]:
    """Writes or reads the picture in this process, with nothing but torch and fastnst loaded before."""
    rest, began, own = peak_resident_bytes(), time.perf_counter(), 0
    if action == "write":
        picture = torch.rand(3, size, size).mul_(0.05).add_(torch.linspace(0, 0.95, size))
        save_image(path, picture, bit_depth=depth)
        own = picture.nbytes
    else:
        reduced = at_size(open_picture(path, max_pixels=size * size), (REDUCED, REDUCED))
        if abs(float(reduced.rgb.mean()) - 0.5) > 0.01:
            raise SystemExit(f"{path} is not read as it was written")
    seconds = time.perf_counter() - began
    return {"rest_mb": rest / 1e6, "peak_mb": (peak_resident_bytes() - own) / 1e6, "seconds": seconds}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192, metavar="PX", help="(default: 8192)")
    parser.add_argument("--folder", type=Path, help="where the pictures lie meanwhile (default: a temporary one)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the result there")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.child:
        action, name, depth = parsed.child
        print(json.dumps(measure(action, Path(name), parsed.size, int(depth))))
        return 0
    rows = []
    print(f"{parsed.size}×{parsed.size} pixels   at rest MB   peak MB   seconds")
    with tempfile.TemporaryDirectory(dir=parsed.folder) as folder:
        for form, depth, action in CASES:
            path = Path(folder) / f"{depth}.{form}"
            words = ["-m", "bench.bench_pictures", "--size", str(parsed.size), "--child", action, str(path), str(depth)]
            child = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
            row = {"format": form, "bit_depth": depth, "action": action, **json.loads(child.stdout)}
            print(
                "{action:5} {format:4} {bit_depth:2} bits {rest_mb:10.0f} {peak_mb:11.0f} {seconds:9.1f}".format(**row)
            )
            rows.append(row)
    if parsed.json:
        facts = {**conditions(torch.device("cpu")), "size": parsed.size, "reduced_to": REDUCED, "pictures": rows}
        parsed.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
