"""A job that goes on until it is ended."""

import time

if __name__ == "__main__":
    time.sleep(86_400)
