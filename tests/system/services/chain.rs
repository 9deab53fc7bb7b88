//! From a topic to a table, through everything that may happen to either and to the job.
