"""The program that moves files for the mover ``gfal:``, in processes of the distribution's own Python.

It has the bindings of gfal2, so it knows nothing of datahub but these modules, nor of anything that is not in the
standard library. It is given orders on standard input, a line of JSON each, carries out one at a time, and may be
killed at any moment. With ``{"entries": number}`` so many lines follow an order, one for each file and folder of a
product of the hub's host. It answers each with ``{"done": …}`` or ``{"fault": …}``. Before that it says as often as it
gets on ``{"moved": bytes}``, before what may be silent for long ``{"patience": seconds}``, and of each file of a copy,
when that begins and when it is verified, ``{"file": {"path": …, "size": bytes, "adler32": digits or null}}``.

One process for many orders, because a login at a GridFTP server takes a hundred times as long as a small file.
"""
