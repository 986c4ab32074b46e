"""Many runs as one piece of work: records, queues of trials, and processes that can fail without harm."""
