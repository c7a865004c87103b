"""Requests are read elsewhere: hostile octets meet a process that has no keys and no database, and
checking a proof of possession does not keep the event loop."""

from __future__ import annotations

import asyncio
from typing import Final, TypeAlias, assert_never

import msgspec

from infra.errors import Rejected, Unavailable
from infra.worker import Worker, work
from pki.request import MAXIMUM_SIZE, CertificateRequest, parse_request


class _Read(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request: CertificateRequest


class _Refused(msgspec.Struct, frozen=True, tag=True, array_like=True):
    code: str
    detail: str


_Answer: TypeAlias = _Read | _Refused

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Answer).decode


class RequestReader:
    """``pki.request.parse_request`` in other processes, ``processes`` of them."""

    def __init__(self, processes: int = 1) -> None:
        self._workers = [Worker(__name__) for _ in range(processes)]
        self._turn = 0

    async def __call__(self, data: bytes) -> CertificateRequest:
        """Read a request. Errors: those of ``parse_request``; ``Unavailable("worker-died")``."""
        if len(data) > MAXIMUM_SIZE:
            return parse_request(data)  # refuses it without looking
        self._turn += 1
        worker = self._workers[self._turn % len(self._workers)]
        try:
            answer = await worker.ask(data)
        except Unavailable:
            answer = await worker.ask(data)  # reading has no effect, so once more does no harm
        match _decode(answer):
            case _Read(request=request):
                return request
            case _Refused(code=code, detail=detail):
                raise Rejected(code, detail)
            case _ as never:
                assert_never(never)

    async def close(self) -> None:
        """End the processes."""
        await asyncio.gather(*(worker.close() for worker in self._workers))


def _answer(data: bytes) -> bytes:
    try:
        return _encode(_Read(parse_request(data)))
    except Rejected as rejected:
        return _encode(_Refused(rejected.code, rejected.detail))


if __name__ == "__main__":
    work(_answer)
