from known.test_langchain import *  # noqa: F403
