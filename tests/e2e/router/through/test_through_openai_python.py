from known.test_openai_python import *  # noqa: F403
