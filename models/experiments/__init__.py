"""Programs behind statements of the README: each is run by `python -m autotx.models.experiments.NAME`."""
