from known.test_javascript import *  # noqa: F403
