"""The core's own table of flows for strategies that share no memory, run by Dask's workers."""

from test_same_answers import (  # noqa: F401
    test_a_flow_gives_the_same_answers,
    test_a_routine_keeps_its_identity_and_so_do_its_handlers,
    test_errors_have_the_same_decisions,
    test_routines_of_one_flow_run_here_and_there,
    test_stop_is_the_same_but_for_what_runs_meanwhile,
)
