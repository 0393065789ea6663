"""Addresses that users tell us by a variable."""

MLFLOW_UI_VARIABLE = "WATERSHED_MLFLOW_UI"
"""Where people open the MLflow server of MLFLOW_TRACKING_URI, if not at that address itself: from
elsewhere it may be called otherwise, or stand behind a proxy."""
