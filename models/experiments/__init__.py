"""Programs that measure numbers which the README quotes. To run: `python -m autotx.models.experiments.NAME`."""
