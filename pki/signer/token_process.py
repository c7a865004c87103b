"""The process that holds a token's sessions, and the messages it understands.

Why a process: python-pkcs11 lets go of the GIL twice a signature, and getting it back beside a
busy event loop takes longer than a fast token takes to sign; a signature made on the loop's own
thread would block the loop while a network HSM answers. Over a socket, a signature costs the loop
some 10 µs whatever the token takes (``python -m bench sign``). And a module that crashes, hangs or
has to be initialized anew is a process that is ended and started again.

Each message is a MessagePack array in a frame (``infra.framing``). The process ends when the socket
does.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread
from time import monotonic, thread_time
from typing import Any, Final, TypeAlias

import msgspec
import pkcs11

from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.framing import Frames
from infra.memory import keep_to_ourselves
from pki.algorithms import SIGNATURE_ALGORITHMS, KeyType
from pki.signer.cryptoki import failure
from pki.signer.messages import (
    Answer,
    Failed,
    FindKey,
    GenerateKey,
    KeyFound,
    KeyMade,
    KeyOpened,
    OpenKey,
    Request,
    Signed,
    SignMessage,
    Start,
    Started,
    frame,
)
from pki.signer.token import Sign, Token, TokenKey
from pki.signer.uri import Pkcs11Uri, parse

_HOLD: Final = 0.001  # seconds that an answer may wait for the next one, to go out with it

# A second thread helps with a token that is waited for (a network's, a device's). One that
# computes in this process is kept busy by one thread: more of them contend for the GIL. Seconds of
# waiting a signature, so many signatures in a row: a thread that was merely preempted is not meant.
_WAITED: Final = 0.00025
_IN_A_ROW: Final = 4
_STUCK: Final = 0.01  # seconds without an answer from which on one helps in any case

_LONGEST: Final = (1 << 32) - 1  # octets: Ed25519 and ML-DSA sign a CRL as a whole

_DECODER: Final = msgspec.msgpack.Decoder(Request)
_Control: TypeAlias = OpenKey | FindKey | GenerateKey


class _Outbox:
    """Answers on their way out, several to one system call while there is more to come."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: deque[bytes] = deque()
        self._since = 0.0
        self._lock = Lock()

    def put(self, answer: Answer, *, more: Callable[[], bool] = lambda: False) -> None:
        """Send ``answer``, at once unless ``more`` says that another will be put.

        It is asked under the lock: whoever takes the last request puts its answer after all
        others, sees that there are no more, and so sends what was held back.
        """
        message = frame(answer)
        with self._lock:
            now = monotonic()
            if not self._waiting:
                self._since = now
            self._waiting.append(message)
            if now - self._since < _HOLD and more():
                return
            data = b"".join(self._waiting)
            self._waiting.clear()
            try:
                self._connection.sendall(data)
            except OSError:
                os._exit(0)  # the other side is gone, and with it the reason to be here


class _Keys:
    """The token's keys that have been opened, by their numbers."""

    def __init__(self, token: Token) -> None:
        self.token = token
        self.opened: list[TokenKey] = []
        self._seen: set[str] = set()

    def answer(self, request: _Control) -> Answer:
        if isinstance(request, GenerateKey):
            made = self.token.generate(request.label, KeyType(request.key_type))
            return KeyMade(request.id, str(made))
        wanted = parse(request.uri)
        assert isinstance(wanted, Pkcs11Uri)  # noqa: S101 - the other side has parsed it
        if isinstance(request, FindKey):
            return self._found(request, wanted)
        algorithm = None if request.algorithm is None else SIGNATURE_ALGORITHMS[request.algorithm]
        key = self.token.open_key(wanted, algorithm)
        self.opened.append(key)
        self._seen.add(request.uri)
        return KeyOpened(request.id, len(self.opened) - 1, key.public_key_info, key.algorithm.name)

    def _found(self, request: FindKey, wanted: Pkcs11Uri) -> Answer:
        try:
            public_key_info = self.token.find_key(wanted)
        except Rejected as rejected:
            if rejected.code == "no-such-key" and request.uri in self._seen:
                # It may be the session that is wrong, logged out for one: a new process will tell.
                raise Unavailable("token-unavailable", "the key is not there any more") from None
            raise
        self._seen.add(request.uri)
        return KeyFound(request.id, public_key_info)


class _Sessions:
    """Threads that sign, each in a session of its own, and all from one queue.

    A thread is added when there is more to do and the token is slow.
    """

    def __init__(self, keys: _Keys, outbox: _Outbox, limit: int) -> None:
        self._keys = keys
        self._outbox = outbox
        self._limit = limit if keys.token.threads else 1
        self._queue: SimpleQueue[SignMessage] = SimpleQueue()
        self._started = 0
        self._waited_in_a_row = 0
        self._progress = 0.0  # when there was an answer last, or nothing to do

    @property
    def waiting(self) -> bool:
        """Whether there are requests that no thread has taken."""
        return not self._queue.empty()

    def submit(self, request: SignMessage) -> None:
        """Have ``request`` signed and answered."""
        if self.waiting:
            self.help()
        else:
            self._progress = monotonic()
        if self._started == 0:
            self._start_thread()
        self._queue.put(request)

    def help(self) -> None:
        """Add a thread if there may be one more and it helps."""
        if self._started < self._limit and (
            self._waited_in_a_row >= _IN_A_ROW or monotonic() - self._progress > _STUCK
        ):
            self._start_thread()

    def _start_thread(self) -> None:
        self._started += 1
        Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        queue, outbox = self._queue, self._outbox
        session: Any = None
        signing: dict[int, Sign] = {}
        while True:
            request = queue.get()
            try:
                sign = signing.get(request.key)
                if sign is None:
                    session = session or self._keys.token.new_session()
                    key = self._keys.opened[request.key]
                    sign = signing[request.key] = self._keys.token.signing(session, key)
                wall, cpu = monotonic(), thread_time()
                answer: Answer = Signed(request.id, sign(request.data))
                self._progress = monotonic()
                waited = self._progress - wall - (thread_time() - cpu)
                self._waited_in_a_row = self._waited_in_a_row + 1 if waited > _WAITED else 0
            except pkcs11.PKCS11Error as error:
                answer = failed(request.id, failure(error, "signing"))
            except Failure as error:
                answer = failed(request.id, error)
            outbox.put(answer, more=lambda: not queue.empty())


def failed(id: int, error: Failure) -> Failed:
    """A failure as a message."""
    match error:
        case Unavailable():
            return Failed(id, "unavailable", error.code, error.detail)
        case Rejected():
            return Failed(id, "rejected", error.code, error.detail)
        case _:
            return Failed(id, "broken", error.code, error.detail)


def serve(connection: socket.socket) -> None:
    """Answer requests until the other side closes; the first one is ``Start``."""
    outbox = _Outbox(connection)
    frames = Frames(_LONGEST)
    keys: _Keys | None = None
    sessions: _Sessions | None = None
    control: SimpleQueue[_Control] = SimpleQueue()
    while True:
        # With nothing to read, see to requests that are stuck behind a token that does not answer.
        while sessions is not None and sessions.waiting and not _readable(connection):
            sessions.help()
        data = connection.recv(1 << 16)
        if not data:
            return
        for message in frames.feed(data):
            request = _DECODER.decode(message)
            match request:
                case Start():
                    try:
                        keys = _start(request)
                    except Failure as error:
                        outbox.put(failed(request.id, error))
                        continue
                    sessions = _Sessions(keys, outbox, request.sessions)
                    Thread(target=_control, args=(control, keys, outbox), daemon=True).start()
                    outbox.put(Started(request.id))
                case SignMessage() if sessions is not None:
                    sessions.submit(request)
                case OpenKey() | FindKey() | GenerateKey() if keys is not None:
                    control.put(request)
                case _:
                    outbox.put(failed(request.id, Broken("not-started", "Start comes first")))


def _readable(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], _STUCK)[0])


def _start(request: Start) -> _Keys:
    wanted = parse(request.token)
    assert isinstance(wanted, Pkcs11Uri)  # noqa: S101 - the other side has parsed it
    return _Keys(Token(request.module, wanted, request.pin))


def _control(requests: SimpleQueue[_Control], keys: _Keys, outbox: _Outbox) -> None:
    while True:
        request = requests.get()
        try:
            answer = keys.answer(request)
        except Failure as error:
            answer = failed(request.id, error)
        outbox.put(answer)


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    # Who started this process decides when it ends: by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A module that crashes must not leave the PIN behind in a core file.
    keep_to_ourselves()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection)
    # Threads may be inside the module: no C_Finalize under their feet.
    os._exit(0)


if __name__ == "__main__":
    main()
