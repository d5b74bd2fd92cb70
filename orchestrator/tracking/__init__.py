"""MLflow as a projection of the journal: the only room that imports mlflow."""
