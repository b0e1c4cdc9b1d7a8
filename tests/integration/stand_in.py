"""A service that is nothing but ready: python stand_in.py PORT [CHOICE …]; it drains for a moment on SIGTERM.

stubborn: takes no notice of SIGTERM; dies: ends once it was asked whether it is ready;
complains: logs a warning now and in four seconds.
"""

import http.server
import logging
import os
import signal
import sys
import threading

port, choices = int(sys.argv[1]), set(sys.argv[2:])
logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if "dies" in choices:
            logging.getLogger("stand_in").info("I had enough")
            os._exit(7)

    def log_message(self, *_: object) -> None:
        pass


def complain() -> None:
    logging.getLogger("stand_in").warning("the well is low")
    logging.getLogger("stand_in").info("nobody needs to know")


server = http.server.HTTPServer(("127.0.0.1", port), Ready)


def leave(*_: object) -> None:
    logging.getLogger("stand_in").info("drained at %s", os.times().elapsed)
    threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in choices else leave)
if "complains" in choices:
    complain()  # of what is over when it is ready
    threading.Timer(4, complain).start()
server.serve_forever()
