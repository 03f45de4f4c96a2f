"""The page's server in a thread of this process, for tests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastnst.app.web.results import Limits

HOST = {"weights": "random", "device": "cpu"}


@contextmanager
def serving(**limits: Any) -> Iterator[str]:
    """Serves a page of these limits on 127.0.0.1 with the random network; gives its address."""
    from fastnst.app.web.app import App
    from fastnst.app.web.serve import Server, bound

    with bound(0) as listening:
        app = App(HOST, Limits(**limits))
        server = Server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            app.close()
    if thread.is_alive():
        raise RuntimeError("the server did not end")
