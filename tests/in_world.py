"""What test_mpi.py starts by mpiexec: commands of autotx, one after another, in one world.

in_world.py FAULT COMMANDS: a list of argument lists as JSON. Process 0 prints the status of each. FAULT happens to
process 1 after its step 5 of the last command.
"""

import json
import os
import signal
import sys

from autotx.models.cli import main
from autotx.models.train import Trainer

fault, commands = sys.argv[1], json.loads(sys.argv[2])
real = Trainer.train_step


def step(self):
    record = real(self)
    if self.step == 5 and self.comm.rank == 1:
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "error":
            raise ValueError("only here")
        elif fault == "other parameters":
            self.model.wte.weight.writable()[0] += 1
    return record


def status(command):
    try:
        return main(command)
    except SystemExit as end:
        return end.code


for command in commands:
    if command is commands[-1]:
        Trainer.train_step = step
    ended = status(command)
    if os.environ["PMI_RANK"] == "0":
        print(f"status {ended}", flush=True)
sys.exit(ended)
