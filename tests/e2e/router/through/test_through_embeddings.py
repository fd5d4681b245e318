from known.test_embeddings import *  # noqa: F403
