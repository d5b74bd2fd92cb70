"""One training run: from a `TrainConfig` to a `RunResult`, alone or under an orchestrator."""
