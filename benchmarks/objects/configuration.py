"""nginx's configuration: the same objects behind a plain port, a delayed one and one with TLS.

Pure; `server.py` writes it into a file and runs nginx with it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from benchmarks.objects.requests import LISTINGS, LOG_FORMAT

CONNECTIONS: Final = 4096
"""How many connections each process of nginx may have. A delayed request takes two: the client's
own, and one to the server that keeps it waiting."""

_MAIN: Final = """\
daemon off;
worker_processes {workers};
worker_rlimit_nofile {files};
pid {directory}/nginx.pid;
{user}
error_log {directory}/error.log;
events {{ worker_connections {connections}; }}
http {{
  log_format requests '{log_format}';
  access_log {directory}/access.log requests;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  default_type application/octet-stream;
  sendfile on;
  tcp_nodelay on;
  keepalive_requests 1000000;
  {servers}
}}
"""

_SERVER: Final = """
  server {{
    listen 127.0.0.1:{port}{options};
    root {root};
    {more}
    location / {{
      if ($args ~ "list-type=2") {{ rewrite ^/([^/]+) {listings}/$1.xml last; }}
    }}
    location {listings}/ {{ internal; types {{ application/xml xml; }} }}
  }}
"""

_DELAYED: Final = """auth_request /.delay;
    location = /.delay {{
      internal;
      auth_request off;
      proxy_pass http://delay;
      proxy_pass_request_body off;
      proxy_pass_request_headers off;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}"""

_TLS: Final = """ssl_certificate {bundle};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    {kernel}"""


class Port(NamedTuple):
    """One port by which clients reach the objects."""

    port: int
    delayed: bool = False
    bundle: str = ""
    """The certificate's file; empty if the port does not speak TLS."""
    key: str = ""
    kernel_tls: bool = False

    def server(self, root: str) -> str:
        more = _DELAYED.format() if self.delayed else ""
        if self.bundle:
            kernel = "ssl_conf_command Options KTLS;" if self.kernel_tls else ""
            more = _TLS.format(bundle=self.bundle, key=self.key, kernel=kernel)
        options = " ssl" if self.bundle else ""
        options += " reuseport backlog=4096"
        return _SERVER.format(
            port=self.port, options=options, root=root, more=more, listings=LISTINGS
        )


class Nginx(NamedTuple):
    """The parts of the whole configuration."""

    root: str
    directory: str
    workers: int
    user: str
    """The user that the processes run as; empty for the user who starts them."""
    files: int
    """How many descriptors each process may have open."""
    ports: tuple[Port, ...]
    delay_socket: str = ""

    def text(self) -> str:
        servers = "".join(port.server(self.root) for port in self.ports)
        if self.delay_socket:
            servers += (
                f"\n  upstream delay {{ server unix:{self.delay_socket}; "
                f"keepalive {CONNECTIONS // 2}; }}\n"
            )
        return _MAIN.format(
            workers=self.workers,
            files=self.files,
            directory=self.directory,
            user=f"user {self.user};" if self.user else "",
            connections=CONNECTIONS,
            log_format=LOG_FORMAT,
            servers=servers,
        )
