"""What people look at: pictures of a graph, traces and pages of a run, progress. Loaded when it is asked for."""
