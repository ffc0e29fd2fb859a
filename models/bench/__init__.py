"""`autotx bench`: autotx timed against the libraries people would use instead, in turns, in one run.

Nobody should have to believe a README: the command prints the numbers of the machine it runs on.

- `cases`: what is timed, a line each.
- `with_autotx`, `with_torch`, ...: how each library does it, with the same function names.
- `inputs`: what all of them are given.
- `worker`: a contestant's process. `turns`: letting them run in turns.
- `startup`: imports and first steps, where the process itself is what is timed.
- `results`, `picture`, `command`: medians, ratios, the printed table, and the command itself.
- `history`, `table`: the numbers behind the README, and its table made from them.

How it is kept fair. Every library lives in a process of its own, and they take turns: A B A B. A turn ends when the
process has gone quiet, because threads that still spin (OpenMP's and a BLAS's do, for milliseconds) would slow the next
one's turn down. A turn starts with a run that does not count, which wakes the threads and fills the caches. The number
of a turn is the median of its runs, the number of a contestant the median of its turns. All get the same number of
threads, the same inputs from the same seeds, and their results are compared before anything is timed.
"""
