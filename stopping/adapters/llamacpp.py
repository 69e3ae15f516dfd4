"""The llama.cpp server in a child process: `with LlamaServer(path) as server: ...`, at `server.url`.

It is the server of the package `xllamacpp` (extra `llamacpp`), on the loopback interface.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_SECONDS = 10.0


class ServerFailed(RuntimeError):
    """The server did not start; the message has the end of its output."""


class LlamaServer:
    """A server of one model, started on entering the context and stopped on leaving it.

    The child ends when its standard input is closed, so it never outlives this process.

    Args:
        model: a `.gguf` file.
        port: the port; 0 for a free one.
        num_slots: how many requests are decoded at once.
        context_tokens: the context length of each slot; None for that of the model's training.
        num_threads: threads for decoding; None for all cores.
        temperature: the temperature of requests that have none, without truncation of unlikely tokens; None for llama.cpp's
            defaults, which truncate.

    Attributes:
        url: the server's address.
        process: the child process.

    Raises:
        ServerFailed: on entering, if it does not start.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        port: int = 0,
        num_slots: int = 4,
        context_tokens: int | None = None,
        num_threads: int | None = None,
        temperature: float | None = None,
    ) -> None:
        self._arguments = [str(model), "--port", str(port), "--slots", str(num_slots)]
        self._arguments += ["--threads", str(num_threads or os.cpu_count() or 1)]
        self._arguments += ["--context", str(context_tokens)] if context_tokens else []
        self._arguments += [] if temperature is None else ["--temperature", str(temperature)]
        self.url = ""
        self.process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        """Start the server, and wait until it listens."""
        self._log = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "stopping.adapters.llamacpp", *self._arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            start_new_session=True,  # an interrupt at the terminal is for this process: requests under way end first
        )  # fmt: skip
        assert self.process.stdout is not None
        line = next((line for line in self.process.stdout if line.startswith("{")), "")
        if not line:
            self.process.wait()
            self._log.seek(0)
            said = self._log.read()[-2000:]
            self.__exit__(None, None, None)
            raise ServerFailed(f"llama.cpp did not start: {said}")
        self.url = json.loads(line)["url"]
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the server."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._log.close()


def main(arguments: list[str] | None = None) -> None:
    """Serve a model until standard input ends; print the address as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m stopping.adapters.llamacpp", description=main.__doc__)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--temperature", type=float)
    options = parser.parse_args(arguments)
    try:
        import xllamacpp
    except ImportError as error:
        parser.error(f"{error}; pip install 'stopping[llamacpp]'")
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.port = options.model, options.port or _free_port()
    parameters.n_parallel = options.slots
    parameters.n_ctx = options.context * options.slots or _trained_context(options.model) * options.slots
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options.threads
    if options.temperature is not None:
        sampling = parameters.sampling
        sampling.temp, sampling.top_k, sampling.top_p, sampling.min_p = options.temperature, 0, 1.0, 0.0
    parameters.warmup, parameters.use_jinja = False, True
    parameters.endpoint_slots, parameters.endpoint_metrics = True, True
    server = xllamacpp.Server(parameters)
    print(json.dumps({"url": server.listening_address}), flush=True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # the server logs every request
        os.dup2(nowhere, stream)
    sys.stdin.read()
    os._exit(0)  # freeing a server may block forever


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _trained_context(path: str) -> int:
    import gguf

    fields = gguf.GGUFReader(path).fields
    return next((int(field.contents()) for name, field in fields.items() if name.endswith(".context_length")), 4096)


if __name__ == "__main__":
    main()
