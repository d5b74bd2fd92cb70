"""`make audit`: the pinned packages against the advisories of PyPI, where they can be asked.

`audit.py PIP_AUDIT CONSTRAINTS ...`; exits with 1 when a pinned release has a known hole. Where no
source of advisories answers, that is said and nothing fails: a check that needs the network must
not stop work without it, and must not pass for done either. With AUDIT_ANSWER=FILE an answer that
found nothing is kept for a day.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TIMEOUT_S = 60
DAY_S = 86_400


def main() -> int:
    """Ask, and say what was answered."""
    program, *constraints = sys.argv[1:]
    kept = Path(os.environ.get("AUDIT_ANSWER", os.devnull))
    if kept.is_file() and _is_fresh(kept, constraints):
        print(kept.read_text(), end="")
        return 0
    command = [program, *(f"--requirement={file}" for file in constraints), "--no-deps",
               "--disable-pip", "--format", "json", "--progress-spinner", "off",
               "--timeout", "5"]  # fmt: skip
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return _say("no source of advisories answered; the packages are not audited", kept)
    answered = [item for item in packages if "vulns" in item]
    if not answered:
        return _say("no source of advisories answered; the packages are not audited", kept)
    holes = [(item, hole) for item in answered for hole in item["vulns"]]
    for item, hole in holes:
        other = f" ({', '.join(hole['aliases'])})" if hole.get("aliases") else ""
        mended = ", ".join(hole.get("fix_versions", ())) or "no release yet"
        print(f"{item['name']} {item['version']}: {hole['id']}{other}, mended in {mended}")
    if holes:
        return 1
    skipped = len(packages) - len(answered)
    rest = f", {skipped} unknown to the source" if skipped else ""
    return _say(f"{len(answered)} packages, no known hole{rest}", kept)


def _is_fresh(kept: Path, constraints: list[str]) -> bool:
    """Whether an answer is of today and of these packages."""
    when = kept.stat().st_mtime
    newest = max(Path(file).stat().st_mtime for file in constraints)
    return time.time() - when < DAY_S and when > newest


def _say(answer: str, kept: Path) -> int:
    print(f"audit: {answer}")
    if kept != Path(os.devnull):
        kept.write_text(f"audit: {answer}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
