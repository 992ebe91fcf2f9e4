"""Starts LocalStack on the loopback interface only.

LocalStack 4 takes the port from GATEWAY_LISTEN but binds every IPv4 interface, whatever host stands there.
"""

import functools

from twisted.internet import endpoints

endpoints.TCP4ServerEndpoint = functools.partial(endpoints.TCP4ServerEndpoint, interface="127.0.0.1")

from localstack.runtime.main import main  # noqa: E402 - after the line above, which it must see

if __name__ == "__main__":
    main()
