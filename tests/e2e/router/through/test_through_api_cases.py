from known.test_api_cases import *  # noqa: F403
