"""A suite that cannot fail proves nothing: with each defect its row must turn red.

`python -m faults.mutants`; exits with 1 when a row does not see the defect that it guards against.
"""

from __future__ import annotations

import subprocess
import sys

GUARDED = {
    "mutant_no_fsync": "power-cut",
    "mutant_no_lock": "second-driver",
    "mutant_no_digest": "corrupt-checkpoint",
    "mutant_no_key": "driver-kill",
}
"""Defects of `faults.patches`, and the row that each must turn red."""


def main() -> int:
    """Run each row with its defect."""
    unseen = []
    for mutant, row in GUARDED.items():
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=line"]
        command += ["tests/faults", "-k", f"[{row}]", "--mutant", mutant]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        red = done.returncode == 1 and "1 failed" in done.stdout
        print(f"{'red' if red else 'GREEN':<6}{row:<20}{mutant}")
        if not red:
            unseen.append(mutant)
            print(done.stdout[-2000:])
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
