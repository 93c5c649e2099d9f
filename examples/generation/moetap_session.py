"""The C header of moetap (moetap.h) from Python: what a host in another language does."""

import ctypes
import json


class MoetapSession:
    """Takes the forwards of the instrumented models of this process, from `open` to `close`."""

    def __init__(self, library: str, **config):
        self._library = ctypes.CDLL(library)
        self._library.moetap_open.restype = ctypes.c_void_p
        self._library.moetap_last_error.restype = ctypes.c_char_p
        self._handle = ctypes.c_void_p(self._library.moetap_open(json.dumps(config).encode()))
        if not self._handle:
            raise RuntimeError(self._library.moetap_last_error().decode())

    def _check(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(self._library.moetap_last_error().decode())

    def label(self, samples: list[int], generation: bool) -> None:
        """The sample of each sequence of the forwards that this thread begins from now on."""
        numbers = (ctypes.c_int64 * len(samples))(*samples)
        self._check(self._library.moetap_label(self._handle, numbers, ctypes.c_size_t(len(samples)), int(generation)))

    def flush(self) -> None:
        """Blocks until everything that ended before is in the files."""
        self._check(self._library.moetap_flush(self._handle))

    def close(self) -> None:
        self._check(self._library.moetap_close(self._handle))
