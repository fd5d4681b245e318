from known.test_responses_python import *  # noqa: F403
