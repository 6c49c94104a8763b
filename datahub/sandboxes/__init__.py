"""The sandboxes of Mesos tasks: found by task, deployment or job, and read as far as anybody wants."""
