from known.test_ollama_python import *  # noqa: F403
