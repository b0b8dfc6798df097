"""What rsq-fuzz alters: small packed networks that have every operation, in a folder.

python tests/fuzz/c_seeds.py FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

import c_library
import every_operation
import handmade_network
import integer_maps
import integer_networks

from rsquant.packed.file import open_packed
from rsquant.packed.format import write_packed
from rsquant.packed.ops.registry import operations
from rsquant.packed.schema import to_json

BY_HAND = {
    "handmade": handmade_network.handmade(),
    "integers": integer_networks.every_step(),
    "extremes": integer_networks.every_step(1, extreme=True),
    "integer_maps": integer_maps.every_form(),
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    every_operation.write(folder)
    for name, (plan, tensors) in BY_HAND.items():
        described = to_json(plan) | {"version": c_library.VERSION}
        write_packed(folder / f"{name}.rsq", tensors, described)
    unseen = set(operations())
    for path in folder.glob("*.rsq"):
        unseen -= {step.OP for step in open_packed(path).plan.steps}
    if unseen:
        sys.exit(f"no network has {sorted(unseen)}; tests/shared/every_operation.py")
