"""The page of `fastnst web`: its controls, a visitor's pictures and results, the one queue, and the server.

What decides anything needs no web library and is tested without one; `app` and `serve` alone import Starlette and
uvicorn, the extra `fastnst[web]`. Everything stays in memory: nothing of a visit is ever written to a disk.
"""
