"""Messages between driver and workers as plain bytes: JSON, and arrays of numbers as they lie in memory. Never pickle."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from headflow.errors import HeadflowError

_PLAIN = "biuf"  # kinds of dtype that may travel: booleans and numbers
_KEY = 16


def pack(message: dict[str, Any]) -> bytes:
    """A message as bytes: length of the head, the head as JSON with places of the arrays, the arrays.

    Args:
        message: names with JSON values or arrays of booleans or numbers.

    Raises:
        TypeError: an array of something else, or a value that JSON does not know.
    """
    plain, places, arrays, at = {}, [], [], 0
    for name, value in message.items():
        if not isinstance(value, np.ndarray):
            plain[name] = value
            continue
        if value.dtype.kind not in _PLAIN:
            raise TypeError(f"{name}: arrays of {value.dtype} do not travel")
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        places.append([name, value.dtype.newbyteorder("<").str, list(value.shape), at])
        arrays.append(data)
        at += len(data)
    head = json.dumps([plain, places], ensure_ascii=False).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *arrays])


def unpack(data: bytes) -> dict[str, Any]:
    """The message that :func:`pack` made bytes of.

    Its arrays are copies whose numbers are aligned in memory: over others numpy may sum in another order.

    Raises:
        HeadflowError: these are no such bytes.
    """
    try:
        stop = 8 + int.from_bytes(data[:8], "little")
        message, places = json.loads(data[8:stop])
        for name, kind, shape, at in places:
            dtype = np.dtype(str(kind))
            if dtype.kind not in _PLAIN:
                raise ValueError(kind)
            message[name] = np.frombuffer(data, dtype, int(np.prod(shape, dtype=int)), stop + at).reshape(shape).copy()
        return message
    except (ValueError, TypeError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise HeadflowError(f"a message between driver and worker is damaged ({error})") from error


def records_message(records: Iterable[tuple[bytes, Float[np.ndarray, " numbers"]]]) -> dict[str, np.ndarray]:
    """Records of the result store as three arrays: keys, lengths, numbers one after another."""
    taken = list(records)
    return {
        "units": keys_array(key for key, _ in taken),
        "lengths": np.array([len(values) for _, values in taken], np.int64),
        "numbers": np.concatenate([np.zeros(0, np.float32), *(np.asarray(values, np.float32) for _, values in taken)]),
    }


def records_of(message: dict[str, Any]) -> list[tuple[bytes, Float[np.ndarray, " numbers"]]]:
    """The records of :func:`records_message`."""
    stops = np.cumsum(message["lengths"])
    return [(key, message["numbers"][stop - length : stop]) for key, length, stop in zip(keys_of(message), message["lengths"], stops, strict=True)]


def keys_array(keys: Iterable[bytes]) -> np.ndarray:
    """Keys of records, 16 bytes each, as one array."""
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY)


def keys_of(message: dict[str, Any]) -> list[bytes]:
    """The keys in a message."""
    return [row.tobytes() for row in message["units"]]
