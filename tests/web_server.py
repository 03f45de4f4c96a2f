"""The page's server in a thread of this process, and its pictures, for tests."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from fastnst.app.web.results import Limits

HOST = {"weights": "random", "device": "cpu"}


def png(width: int = 64, height: int = 48, seed: int = 0, mode: str = "RGB") -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, len(mode)), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


@contextmanager
def serving(guard: Any = None, **limits: Any) -> Iterator[str]:
    """Serves a page of these limits on 127.0.0.1 with the random network; gives its address."""
    from fastnst.app.web.app import App
    from fastnst.app.web.serve import Server, bound

    with bound(0) as listening:
        app = App(HOST, Limits(**limits), guard)
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
