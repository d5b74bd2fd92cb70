"""A secret goes through a sweep: nothing that the sweep writes or shows holds it."""

from __future__ import annotations

import stat
import zipfile

from faults.matrix import Trial, row
from faults.specimen import Place

CANARY = "canary-7f3a9b51"


@row("canary")
def test_a_secret_is_nowhere_but_in_the_budget(trial: Trial, place: Place, calm: Place) -> None:
    env = {"STORE_TOKEN": CANARY, "MLFLOW_TRACKING_PASSWORD": CANARY}
    victim = calm.rows()[-1]["trial_id"]
    faults = {"leak": {"victim": victim, "secret": CANARY}, "linger": {"seconds": 0.002}}
    kept = 0
    stores = {"away": f"http://me:{CANARY}@127.0.0.1:9", "here": ""}
    for outputs, uri in list(stores.items())[: trial.times]:
        place.budget(tracking=True, uri=uri)
        command = place.run(outputs, env=env, patches=faults)
        assert command.reaches(lambda o=outputs: place.steps_logged(o) >= 5, "steps")
        shown = [" ".join(process.cmdline()) for process in command.family()]
        command.wait()
        assert "error" in {r["excluded"][:5].lower() for r in place.rows(outputs)} or any(
            "RuntimeError" in r["excluded"] for r in place.rows(outputs)
        )
        bundle = place.folder / f"{outputs}.zip"
        packing = place.sweep(
            *("doctor", "tiny", "--outputs", outputs, "--bundle", str(bundle)), env=env
        )
        packing.wait()
        syncing = place.sweep("sync", "tiny", "--outputs", outputs, env=env)
        assert syncing.wait() == (3 if uri else 0), syncing.err
        said = [text for c in (command, packing, syncing) for text in (c.out, c.err)]
        with zipfile.ZipFile(bundle) as packed:
            assert "sweep/journal.jsonl" in packed.namelist()
            said += [packed.read(name).decode() for name in packed.namelist()]
        assert not [text for text in (*shown, *said) if CANARY in text]
        files = [path for path in (place.folder / outputs).rglob("*") if path.is_file()]
        holding = [path for path in files if CANARY.encode() in path.read_bytes()]
        frozen = place.sweep_dir(outputs) / "budget.yaml"
        assert holding == ([frozen] if uri else [])
        assert stat.S_IMODE(frozen.stat().st_mode) == 0o600
        open_to_others = [p for p in files if p.stat().st_mode & 0o077 and p.name != "mlflow.db"]
        assert open_to_others == []
        kept += len(files)
    trial.record(f"0 of {kept} files hold it but the frozen budget itself; all are 0600")
