"""Children, truthfully: a supervisor process that runs jobs, keeps what they write, and leaves nothing of them behind.

`datahub.processes.runner` is the daemon's side. The other modules are the supervisor's own, which imports nothing but
them and the standard library.
"""
