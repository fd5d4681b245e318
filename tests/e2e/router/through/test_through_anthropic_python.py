from known.test_anthropic_python import *  # noqa: F403
