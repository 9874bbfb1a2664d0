"""Routines whose failures are the test."""
