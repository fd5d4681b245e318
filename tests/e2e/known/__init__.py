"""Tests with models of a few hundred kilobytes whose answers are known word for word."""
