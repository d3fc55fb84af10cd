"""What the tests stand on: real servers that are started, broken and ended by the test itself."""

from tests.support.availability import in_ci as in_ci
from tests.support.availability import require as require
from tests.support.availability import require_program as require_program
from tests.support.databases import DATABASE_KINDS as DATABASE_KINDS
from tests.support.databases import DatabaseKind as DatabaseKind
from tests.support.databases import MariadbServer as MariadbServer
from tests.support.databases import PostgresqlServer as PostgresqlServer
from tests.support.databases import fresh_database as fresh_database
from tests.support.http import Response as Response
from tests.support.http import request as request
from tests.support.processes import free_port as free_port
from tests.support.redis_server import RedisServer as RedisServer
from tests.support.uwsgi_server import UwsgiServer as UwsgiServer
from tests.support.waiting import wait_until as wait_until
