"""The page of `fastnst web`: its controls, the session of pictures and results, the one run, and the server.

Decisions need no web library and are tested without one; `app` and `serve` alone import Starlette and uvicorn, the
extra `fastnst[web]`. Everything stays in memory: nothing of a session is ever written to a disk.
"""
