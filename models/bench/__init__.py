"""`autotx bench`: times autotx and the libraries that people would use instead, in turns, on this machine.

- `cases`: what is timed, a line for each case.
- `with_autotx`, `with_torch`, ...: the tasks in each library, under the same function names.
- `inputs`: the arrays that all libraries start from.
- `worker`: a contestant's process. `turns`: runs these processes in turns.
- `startup`: times imports and first steps, each in a new process, from its start to its end.
- `results`, `picture`, `command`: medians, ratios, the printed table, and the command itself.
- `history`, `table`: the numbers that the README quotes, and its table made from them.

What makes the comparison fair: each library runs in its own process, and the processes take turns, A B A B. A turn ends
when the process uses almost no CPU time, because threads that still spin (those of OpenMP and a BLAS do so for
milliseconds) would slow down the next turn. A turn starts with a run that does not count, which wakes the threads and
fills the caches. The time of a turn is the median of its runs, the time of a contestant the median of its turns. All
get the same number of threads and the same inputs, and their results are compared before anything is timed.
"""
