"""Loaders without tensors: each reads an object into one piece of memory, block by block.

Unless a loader's name says otherwise, that memory is fresh shared memory, as a slab is. Clients are
made before the clock starts; connections and pages are not.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from benchmarks.checkpoint_files import stored_tensors

BLOCK_BYTES = 8 << 20
SHARED_MEMORY = "/dev/shm"
REGION = "us-east-1"
ANYTHING = "bench"
"""The credentials that loaders sign with; the server checks no signature."""


class Objects(msgspec.Struct, frozen=True):
    """The objects to read, and the connections and threads that may be used."""

    bucket: str
    keys: tuple[str, ...]
    files: tuple[str, ...]
    """Local files with the same bytes; loaders look only at their sizes and headers."""
    endpoint: str
    connections: int
    socket: str = ""
    """The path of the daemon's control socket."""
    bundle: str = ""
    """The file of the certificate to trust; empty if the endpoint does not speak TLS."""
    processes: int = 1
    """How many processes run the bare loops that are made of processes."""

    @property
    def uris(self) -> list[str]:
        return [f"s3://{self.bucket}/{key}" for key in self.keys]

    @property
    def source(self) -> str:
        """The prefix that all objects are under."""
        return self.uris[0].rpartition("/")[0]

    def blocks(self) -> list[tuple[int, int, int]]:
        """Number of the object, start and stop of each block."""
        return [
            (number, start, min(start + BLOCK_BYTES, size))
            for number, size in enumerate(map(os.path.getsize, self.files))
            for start in range(0, size, BLOCK_BYTES)
        ]


class Images:
    """Memory for each object, and threads that fill it, as many as there may be connections."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.views: list[memoryview] = []
        self._own = threading.local()

    def tensors(self) -> Iterator[tuple[str, memoryview]]:
        self.views = [self.memory(os.path.getsize(path)) for path in self.objects.files]
        self.fill()
        for path, view in zip(self.objects.files, self.views, strict=True):
            for tensor in stored_tensors(path):
                yield tensor.name, view[tensor.start : tensor.stop]

    def memory(self, size_bytes: int) -> memoryview:
        with tempfile.TemporaryFile(dir=SHARED_MEMORY) as file:
            os.ftruncate(file.fileno(), size_bytes)
            return memoryview(mmap.mmap(file.fileno(), size_bytes))

    def fill(self) -> None:
        with ThreadPoolExecutor(self.objects.connections) as pool:
            for _ in pool.map(lambda block: self.block(*block), self.objects.blocks()):
                pass

    def block(self, number: int, start: int, stop: int) -> None:
        raise NotImplementedError

    def own(self, make: Callable[[], Any]) -> Any:
        """This thread's own client."""
        if not hasattr(self._own, "client"):
            self._own.client = make()
        return self._own.client


class Boto3(Images):
    """Reads by `get_object` with a range and `readinto`; one client, many connections."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        import boto3
        from botocore.config import Config

        self._client = boto3.client(
            "s3",
            endpoint_url=objects.endpoint,
            region_name=REGION,
            aws_access_key_id=ANYTHING,
            aws_secret_access_key=ANYTHING,
            config=Config(
                max_pool_connections=objects.connections, s3={"addressing_style": "path"}
            ),
        )

    def block(self, number: int, start: int, stop: int) -> None:
        answer = self._client.get_object(
            Bucket=self.objects.bucket,
            Key=self.objects.keys[number],
            Range=f"bytes={start}-{stop - 1}",
        )
        read_all(answer["Body"], self.views[number][start:stop])
        answer["Body"].read()


class Obstore(Images):
    """Reads by `get_range`, and copies the bytes out of the buffer that it returns."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        from obstore.store import S3Store

        self._store = S3Store(
            objects.bucket,
            endpoint=objects.endpoint,
            region=REGION,
            access_key_id=ANYTHING,
            secret_access_key=ANYTHING,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def block(self, number: int, start: int, stop: int) -> None:
        body = self._store.get_range(self.objects.keys[number], start=start, end=stop)
        self.views[number][start:stop] = memoryview(body)


class Crt(Images):
    """Reads by the AWS CRT's parallel download into a file of /dev/shm, mapped afterwards."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        from awscrt import auth, s3
        from awscrt import http as crt_http

        provider = auth.AwsCredentialsProvider.new_static(ANYTHING, ANYTHING)
        self._client = s3.S3Client(
            region=REGION,
            tls_mode=s3.S3RequestTlsMode.DISABLED,
            signing_config=s3.create_default_s3_signing_config(
                region=REGION, credential_provider=provider
            ),
            part_size=BLOCK_BYTES,
            throughput_target_gbps=100.0,
            max_active_connections_override=objects.connections,
        )
        self._get = s3.S3RequestType.GET_OBJECT
        self._request, self._headers = crt_http.HttpRequest, crt_http.HttpHeaders

    def tensors(self) -> Iterator[tuple[str, memoryview]]:
        with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory:
            places = [os.path.join(directory, str(n)) for n in range(len(self.objects.keys))]
            asked = [self._ask(*pair) for pair in zip(self.objects.keys, places, strict=True)]
            for one in asked:
                one.finished_future.result()
            for path, place in zip(self.objects.files, places, strict=True):
                with open(place, "rb") as file:
                    view = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
                for tensor in stored_tensors(path):
                    yield tensor.name, view[tensor.start : tensor.stop]

    def _ask(self, key: str, place: str) -> Any:
        host = urllib.parse.urlsplit(self.objects.endpoint).netloc
        request = self._request(
            "GET", f"/{self.objects.bucket}/{key}", self._headers([("host", host)])
        )
        return self._client.make_request(
            type=self._get,
            request=request,
            recv_filepath=place,
            operation_name="GetObject",
        )


def read_all(answer: Any, view: memoryview) -> None:
    """Read a body of the view's size into it."""
    done = 0
    while done < len(view):
        count = answer.readinto(view[done:])
        if not count:
            raise RuntimeError("the server's answer ended early")
        done += count
